"""The demo data set of the detection task."""

import logging
from pathlib import Path
from typing import Any

from data.coco import CocoData
from data.demo.scenes import write_scenes

log = logging.getLogger(__name__)


class DemoScenesData(CocoData):
    """Drawn scenes, generated in `root` on first use."""

    def __init__(self, root: str, resolution: int, *, train: int, val: int, seed: int, **settings: Any) -> None:
        files = {f"{s}_{k}": f"{s}{e}" for s in ("train", "val") for k, e in (("json", ".json"), ("images", ""))}
        super().__init__(root, resolution, **files, **settings)
        self.counts = {"train": train, "val": val, "seed": seed}

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating %(train)d + %(val)d scenes", self.counts)
        write_scenes(Path(self.root), **self.counts)
