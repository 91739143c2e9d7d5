"""python -m tests.pictures [<name> ...]: remakes the documentation's pictures with the commands that they show.

`demo` trains `make demo`'s detector, for eight minutes, whose data `check` shows and which `page` exports; `dogs`,
`faces` and `geo` run what their pages say, `compare` a short run of every task at two widths. Half an hour on two free
cores, in build/pictures; what has been trained there is reused. Needs Chromium.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
DOCS, PLACE = ROOT / "docs", ROOT / "build" / "pictures"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWEEP = "-m task=detection,dogs,faces,embedding,geo backbone.alpha=0.25,0.5 experiment=smoke"
PLACES = ("paths.data=data",)
DEMO_MINUTES = 8.0
WAIT = 120_000  # ms
TWO_ROWS = 2 * (300 + 6) + 6  # pixels of predictions.png


def tasks(command: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", f"tasks.{command}", *arguments], cwd=PLACE, check=True, env=environment)


def trained(task: str, name: str, written: Path, minutes: float | None) -> Path:
    """The folder of a run, trained with the first command for `task` in the file `written`."""
    folder = PLACE / "runs" / task / name
    if not folder.exists():
        command = next(
            c for c in re.findall(r"-m tasks\.run (.*)$", written.read_text(), flags=re.M) if f"task={task}" in c
        )
        own = ("name=", "trainer.minutes=") if minutes else ("name=",)
        settings = [s for s in shlex.split(command) if not s.startswith(own)]
        more = [f"trainer.minutes={minutes}"] if minutes else []
        tasks("run", *settings, *more, *PLACES, f"name={name}")
    return folder


def demo_run(minutes: float | None) -> Path:
    return trained("detection", "demo", ROOT / "Makefile", minutes or DEMO_MINUTES)


def keep_two_rows(run: Path, target: Path) -> None:
    """Truth beside prediction, as the run itself draws them."""
    image = Image.open(run / "predictions.png").convert("RGB")
    image.crop((0, 0, image.width, min(image.height, TWO_ROWS))).save(target, quality=85)


def demo(minutes: float | None) -> None:
    keep_two_rows(demo_run(minutes), DOCS / "demo.jpg")


def dogs(minutes: float | None) -> None:
    keep_two_rows(trained("dogs", "dogs", DOCS / "classification.md", minutes), DOCS / "dogs.jpg")


def faces(minutes: float | None) -> None:
    keep_two_rows(trained("faces", "faces", DOCS / "faces.md", minutes), DOCS / "faces.jpg")


def check(minutes: float | None) -> None:
    """The page of `tasks.check` on the demo's scenes."""
    demo_run(minutes)
    tasks("check", "task=detection", *PLACES)
    screenshot(PLACE / "check.html", DOCS / "check.png", 1060, 1100)


def geo(minutes: float | None) -> None:
    """The map of a photo, located with the demo's gallery."""
    run = PLACE / "runs" / "geo" / "earth"
    if not run.exists():
        tasks("run", "experiment=earth", "name=earth", *PLACES, *([f"trainer.minutes={minutes}"] if minutes else []))
    tasks("gallery", f"ckpt={run}", "mode=build")
    (table,) = (PLACE / "data").rglob("val.csv")
    photo = table.parent / table.read_text().splitlines()[1].split(",")[0]
    tasks("gallery", f"ckpt={run}", "mode=query", f"input={photo}", "output=located")
    (drawn,) = (path for path in (PLACE / "located").iterdir() if path.suffix != ".jsonl")
    Image.open(drawn).convert("RGB").save(DOCS / "geo.jpg", quality=85)


def compare(minutes: float | None) -> None:
    """The page of `tasks.compare` over a short run of every task."""
    if not (PLACE / "sweep").exists():
        tasks("run", *SWEEP.split(), *PLACES, "paths.runs=sweep", "trainer.progress_bar=false")
    tasks("compare", "runs=sweep", "output=compare")
    (page,) = (PLACE / "compare").glob("*.html")
    screenshot(page, DOCS / "compare.png", 1180, 1270)


def page(minutes: float | None) -> None:
    """The page with a float and an int8 export of one detector, and their answers to a photo."""
    run = demo_run(minutes)
    for quantize in ("none", "int8"):
        tasks("export", f"ckpt={run}", "format=litert", f"quantize={quantize}", "max_drop=100", "overwrite=true")
    tasks("page", f"exports={run}", f"output={PLACE / 'page.html'}")
    photo = sorted((PLACE / "data").rglob("val/*.jpg"))[0]

    def ask(tab: Page) -> None:
        tab.locator("#footer", has_text="first answer").wait_for()
        tab.set_input_files("#file", photo)
        tab.wait_for_timeout(2000)

    screenshot(PLACE / "page.html", DOCS / "page.png", 1060, 1100, ask)


def screenshot(path: Path, target: Path, width: int, height: int, act: Callable[[Page], None] | None = None) -> None:
    """What Chromium shows of a page after `act`, in 256 colours."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.set_default_timeout(WAIT)
        tab.goto(path.as_uri())
        if act:
            act(tab)
        tab.screenshot(path=target)
        browser.close()
    Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)


MADE = {"demo": demo, "check": check, "dogs": dogs, "faces": faces, "geo": geo, "compare": compare, "page": page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="*", help="which ones; all where none is named")
    parser.add_argument("--minutes", type=float, help="of each training, for trials")
    given = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    for name in given.pictures or MADE:
        MADE[name](given.minutes)
        print(f"made the picture of {name}")


if __name__ == "__main__":
    main()
