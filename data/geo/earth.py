"""The demo data set of the geo-localization task."""

import logging
from typing import Any

from data.demo.earth import write_earth
from data.geo.places import GeoData

log = logging.getLogger(__name__)


class DemoEarthData(GeoData):
    """Photos of the Earth from above, generated in `root` on first use."""

    def __init__(
        self,
        root: str,
        resolution: int,
        *,
        train: int,
        val: int,
        gallery: int,
        size: int,
        seed: int,
        generated: bool,
        **settings: Any,
    ) -> None:
        super().__init__(
            root, resolution, train="train.csv", val="val.csv", test=None, gallery="gallery.csv", **settings
        )
        self.counts: dict[str, Any] = {"train": train, "val": val, "gallery": gallery}
        self.look: dict[str, Any] = {"size": size, "seed": seed, "generated": generated}

    def prepare(self) -> None:
        if not self.root.exists():
            log.info("generating %(train)d + %(val)d + %(gallery)d photos of the Earth", self.counts)
        write_earth(self.root, **self.counts, **self.look)
