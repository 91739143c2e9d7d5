"""Exports of every task, the page that has them all, and a browser for it."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from backbones.errors import UserError
from tasks import page, run
from tasks.export import __main__ as export
from tasks.web.runtime import RUNTIMES, runtime_names
from tests.conftest import EARTH, FEW, SHALLOW, TINY, untrained

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 60_000  # ms
expect.set_options(timeout=WAIT)  # a page loads 20 MB before its first answer, and others may use the machine
TASKS = {
    "detection": ("data=demo_scenes", "data.root={scenes}", "task.draw_threshold=0.2", "detector=ssd", SHALLOW, *TINY),
    "dogs": (
        "data=dogs",
        "data.root={dogs}",
        "data.center_crop=0.875",
        SHALLOW,
        *(s for s in TINY if not s.startswith(("data.train", "data.val"))),
    ),
    "faces": ("data=demo_faces", "data.root={faces}", "task.draw_threshold=0.5", *FEW),
    "embedding": ("data=demo_people", "data.root={faces}", "task.dim=16", *FEW),
    "geo": EARTH,
}
LEARNED = ("trainer.max_epochs=15", "trainer.validate_every=15", "trainer.lr=0.02")  # until a detector's scores differ
# Every task by LiteRT; by ONNX Runtime the two whose outputs have other names or types, as an export takes 4 s.
EXPORTS = {
    "detection-onnx": (),
    "detection-litert": (),
    "detection-int8-litert": (),
    "dogs-onnx": (),
    "dogs-int8-onnx": (),
    "dogs-litert": ("batch=2",),
    "dogs-int8-litert": (),
    "faces-litert": (),
    "embedding-litert": (),
    "geo-litert": (),
}


@pytest.fixture(scope="session")
def exports(scenes: Path, dogs: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of exports of tiny networks, by the names of `EXPORTS`."""
    root, runs = tmp_path_factory.mktemp("runs"), {}
    for task, settings in TASKS.items():
        common = (f"task={task}", f"paths.runs={root}", f"paths.data={root}", "logger.images=0")
        own = [*common, *(s.format(scenes=scenes, dogs=dogs, faces=faces) for s in settings)]
        if task == "detection":
            run.execute([*own, *LEARNED, "name=tiny"])
            runs[task] = root / task / "tiny"
        else:
            runs[task] = untrained(root / task / "tiny", *own)
    found = {}
    for name, settings in EXPORTS.items():
        task, _, form = name.partition("-")
        quantize, form = ("int8", form[5:]) if form.startswith("int8-") else ("none", form)
        kind = (f"ckpt={runs[task]}", f"format={form}", f"quantize={quantize}")
        found[name] = export.execute([*kind, "max_drop=100", "calibration=8", *settings])
    return found


@pytest.fixture(scope="session")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder node_modules with the runtimes."""
    modules = tmp_path_factory.mktemp("npm") / "node_modules"
    for form, runtime in RUNTIMES.items():
        try:
            runtime.files(runtime_names(form, False), None)
        except UserError as error:
            pytest.skip(f"needs {runtime.package}: {error}")
        folder = modules / runtime.package / runtime.folder
        folder.parent.mkdir(parents=True)
        folder.symlink_to(runtime.cache())
    return modules


@pytest.fixture(scope="session")
def whole(exports: dict[str, Path], runtimes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every export."""
    return build(tmp_path_factory.mktemp("page"), *exports.values(), settings=(f"runtime_folder={runtimes}",))


@pytest.fixture(scope="session")
def dogs_page(exports: dict[str, Path], runtimes: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one export of each format."""
    settings = (f"runtime_folder={runtimes}", f"samples={photo}")
    return build(tmp_path_factory.mktemp("page"), exports["dogs-int8-litert"], exports["dogs-onnx"], settings=settings)


def build(folder: Path, *exports: Path, settings: tuple[str, ...] = ()) -> Path:
    joined = ",".join(map(str, exports))
    return page.execute([f"exports={joined}", f"output={folder / 'page.html'}", *settings])


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Browser]]:
    """Starts a browser with further options."""
    if not CHROMIUM:
        pytest.skip("needs a Chromium, such as Debian's package chromium")
    with sync_playwright() as play:
        yield lambda *options: play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])


@pytest.fixture(scope="module")
def chromium(launch: Callable[..., Browser]) -> Iterator[Browser]:
    with launch() as browser:
        yield browser


@contextmanager
def opened(
    browser: Browser, url: str, *, problems: tuple[str, ...] = (), outside: str = "", script: str = "", **settings: Any
) -> Iterator[Page]:
    """The page at an address. At the end, it must have reported only messages that contain one of `problems`, and
    requested nothing outside of itself but addresses that start with `outside`. `script` runs before the page's own.
    """
    found: list[str] = []
    context = browser.new_context(**settings)
    context.set_default_timeout(WAIT)
    tab = context.new_page()
    tab.on("console", lambda message: found.append(message.text))
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("dialog", lambda dialog: found.append(dialog.message))
    own = ("data:", "blob:", url.partition("?")[0], outside or url)
    tab.on("request", lambda request: None if request.url.startswith(own) else found.append(request.url))
    tab.add_init_script(script)
    tab.goto(url)
    yield tab
    context.close()
    # a note on the speed of a driver without a GPU is no fault of the page
    found = [text for text in found if "GL Driver Message" not in text]
    assert [text for text in found if not any(words in text for words in problems)] == []
    assert bool(found) == bool(problems)


@pytest.fixture(scope="module")
def tab(chromium: Browser, whole: Path) -> Iterator[Page]:
    """The page with every export, opened from disk."""
    with opened(chromium, whole.as_uri()) as own:
        answered(own)
        yield own


def answered(tab: Page) -> None:
    expect(tab.locator("#footer")).to_contain_text("first answer")


def answer(tab: Page, folder: Path, image: Path) -> list[dict[str, Any]]:
    """The page's answer to an image, with only one export selected."""
    select(tab, folder)
    panel = panel_of(tab, folder)
    tab.set_input_files("#file", image)
    return rows(panel)


def select(tab: Page, *folders: Path) -> None:
    """Selects these exports, and no others."""
    for name in tab.locator("#chips label").all_inner_texts():
        tab.locator("#chips").get_by_label(name, exact=True).set_checked(name in {f.name for f in folders})


def panel_of(tab: Page, folder: Path) -> Locator:
    return tab.locator(f'section[data-name="{folder.name}"]')


def rows(panel: Locator) -> list[dict[str, Any]]:
    """The rows of a panel, once the page has answered."""
    wait_until_settled(panel.page)
    found: list[dict[str, Any]] = json.loads(panel.locator("pre").text_content() or "")
    return found


def wait_until_settled(tab: Page) -> None:
    """Waits until every image and change is answered."""
    expect(tab.locator("#models")).to_have_attribute("aria-busy", "false")


def python(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What example.py answers for an image, and the model's outputs behind it."""
    monkeypatch.setattr(sys, "argv", ["example.py"])
    example = runpy.run_path(str(folder / "example.py"))
    spec = example["SPEC"]
    pixels, size = example["read"](image)
    outputs = {o["name"]: value[0] for o, value in zip(spec["outputs"], example["run"](pixels), strict=True)}
    return rows_of(example[spec["answer"]](outputs, spec, size), size), outputs


def rows_of(answers: dict[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """An answer as the page has it: rows, with boxes as shares of the image's sides."""
    if "detections" in answers:
        sides = np.array([size[1], size[0]] * 2)
        return [{**row, "box": (np.array(row["box"]) / sides).tolist()} for row in answers["detections"]]
    if "cells" in answers:
        cells = [{"token": cell["token"], "probability": cell["probability"]} for cell in answers["cells"]]
        return [{"latitude": answers["latitude"], "longitude": answers["longitude"], "cells": cells}]
    return answers.get("classes") or answers.get("attributes") or [answers]


def flat(value: Any) -> list[float]:
    """The numbers in nested lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.fixture(scope="session")
def photo(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo that is stored on its side, as by phones."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    image = Image.open(next((scenes / "val").glob("*.jpg"))).resize((301, 227))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    image.save(path, exif=exif, quality=95)
    return path
