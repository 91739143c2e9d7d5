"""What the page answers: as Python does, of files and samples, and on a phone."""

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from playwright.sync_api import Browser, Page, expect

from data.inputs import read_input
from tasks.compare.runs import read_runs
from tasks.detection.results import numpy_nms
from tests.benchmarks.compare import write_run
from tests.tasks.web.conftest import (
    EXPORTS,
    WAIT,
    answer,
    answered,
    build,
    flat,
    opened,
    panel_of,
    python,
    rows,
    select,
    wait_until_settled,
)


@pytest.mark.parametrize("name", EXPORTS)
def test_answers_are_those_of_python(
    name: str, exports: dict[str, Path], tab: Page, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exports[name]
    wanted, outputs = python(folder, photo, monkeypatch)
    spec = json.loads((folder / "model.json").read_text())
    exact = spec["quantize"] == "none"
    got = answer(tab, folder, photo)
    assert len(wanted) > 0
    if spec["task"] == "dogs":
        allowed = 1e-4 if exact else spec["differences"]["probabilities"]
        scores = dict(zip(spec["labels"], outputs["probabilities"].tolist(), strict=True))
        assert len(got) == 5
        assert [row["score"] for row in got] == pytest.approx([scores[row["label"]] for row in got], abs=allowed + 1e-4)
        assert [row["score"] for row in got] == pytest.approx([row["score"] for row in wanted], abs=allowed + 1e-4)
    elif spec["task"] == "detection":
        allowed = {"scores": 1e-4, "boxes": 0.01} if exact else spec["differences"]
        first = wanted[:20]
        assert len(got) == pytest.approx(len(wanted), abs=20)
        for row in first if exact else []:
            near = min(got, key=lambda other: distance(row, other))
            assert near["label"] == row["label"]
            assert near["score"] == pytest.approx(row["score"], abs=allowed["scores"] + 1e-4)
            assert near["box"] == pytest.approx(row["box"], abs=allowed["boxes"] / 96 + 4e-4)
        assert got[0]["score"] == pytest.approx(wanted[0]["score"], abs=allowed["scores"] + 1e-4)
    else:
        assert flat(got) == pytest.approx(flat(wanted), abs=2e-4)


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return float(np.abs(np.subtract(a["box"], b["box"])).max()) + (a["label"] != b["label"])


@pytest.fixture(scope="module")
def scripted(whole: Path, chromium: Browser) -> Iterator[Page]:
    """The page, in which tests may run scripts."""
    with opened(chromium, whole.as_uri(), bypass_csp=True) as tab:
        answered(tab)
        yield tab


def test_suppression_is_that_of_python(scripted: Page) -> None:
    rng = np.random.default_rng(0)
    for candidates, score_threshold in ((200, 0.01), (40, 0.7)):
        corner = rng.uniform(0, 60, (150, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0, 40, (150, 2))], axis=1).astype(np.float32)
        scores = np.round(rng.random((150, 3)), 2).astype(np.float32)  # many are equal
        limits = {"candidates": candidates, "score_threshold": score_threshold, "nms_iou": 0.3, "max_detections": 25}
        script = """([boxes, scores, settings]) => {
            const tensor = (values, size) => ({data: new Float32Array(values), dims: [1, 150, size]});
            const found = suppress({boxes: tensor(boxes, 4), scores: tensor(scores, 3)}, settings);
            return [found.boxes, found.scores, found.labels].map(({data}) => Array.from(data));
        }"""
        got = scripted.evaluate(script, [boxes.ravel().tolist(), scores.ravel().tolist(), limits])
        wanted = numpy_nms({"boxes": boxes, "scores": scores}, limits)
        assert 5 < len(wanted[1]) <= 25
        for some, all_ in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(np.array(some, np.float32), all_.ravel().astype(np.float32))


def test_images_become_the_input_that_pillow_makes(scripted: Page) -> None:
    rng = np.random.default_rng(0)
    for width, height, size, centre in (
        (301, 227, 96, None),
        (64, 50, 96, None),
        (320, 240, 112, 0.875),
        (33, 96, 96, 0.7),
    ):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels)
        if centre:
            side = centre * min(image.size)
            left, top = (width - side) / 2, (height - side) / 2
            image = image.crop((round(left), round(top), round(left + side), round(top + side)))
        wanted = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        script = """([pixels, width, height, size, centre]) => {
            const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
            pixels.forEach((value, i) => { rgba[4 * Math.floor(i / 3) + i % 3] = value; });
            return Array.from(resize(rgba, width, region({center_crop: centre}, width, height), size));
        }"""
        got = scripted.evaluate(script, [pixels.ravel().tolist(), width, height, size, centre])
        np.testing.assert_array_equal(np.array(got).reshape(size, size, 3), wanted)


@pytest.fixture(scope="module")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images with random colours in opaque, half transparent and transparent pixels."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("transparent")
    colours = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    opacity = Image.fromarray(rng.choice(np.array([0, 1, 128, 255], np.uint8), (40, 60)))
    for mode in ("RGB", "L"):
        image = colours.convert(mode)
        image.putalpha(opacity)
        image.save(folder / f"{mode}.png")
        image.save(folder / f"{mode}.webp", lossless=True, exact=True)
    colours.quantize(8).save(folder / "palette.png", transparency=3)
    return sorted(folder.iterdir())


# the pixels of the image that the page has, RGBA
PIXELS = "() => Array.from(frame.getImageData(0, 0, frame.canvas.width, frame.canvas.height).data)"


@pytest.mark.parametrize("webgl", [True, False])
def test_transparency_is_left_out_as_in_python(
    webgl: bool, transparent: list[Path], whole: Path, launch: Callable[..., Browser]
) -> None:
    """Without WebGL, only opaque pixels are as in Python."""
    none = "HTMLCanvasElement.prototype.getContext = ((get) => function (kind, ...more) {" + (
        'return kind === "webgl" ? null : get.call(this, kind, ...more); })(HTMLCanvasElement.prototype.getContext);'
    )
    with (
        launch("--enable-unsafe-swiftshader") as own,
        opened(own, whole.as_uri(), bypass_csp=True, script="" if webgl else none) as tab,
    ):
        answered(tab)
        for path in transparent:
            tab.set_input_files("#file", path)
            wait_until_settled(tab)
            wanted, (height, width) = read_input(path)
            got = np.array(tab.evaluate(PIXELS), np.uint8).reshape(height, width, 4)
            seen = np.full((height, width), webgl) | (np.asarray(Image.open(path).convert("RGBA"))[..., 3] == 255)
            np.testing.assert_array_equal(got[seen][:, :3], wanted[seen], path.name)


def test_the_colour_profile_of_a_photo_is_ignored_as_in_python(
    dogs_page: Path, chromium: Browser, photo: Path, tmp_path: Path
) -> None:
    """Also where a browser applies profiles whatever the page asks for, as Safari does."""
    safari = """const decode = createImageBitmap.bind(window);
        window.createImageBitmap = (source, more) => decode(source, {...more, colorSpaceConversion: "default"});"""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = plain.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")  # green for red
    long = struct.pack(">I", len(swapped) + 70_000) + swapped[4:] + bytes(70_000)  # in two segments
    image = Image.open(photo)
    with opened(chromium, dogs_page.as_uri(), script=safari) as tab:
        answered(tab)
        for profile in (swapped, long):
            image.save(tmp_path / "photo.jpg", exif=image.getexif(), icc_profile=profile, quality=95)
            tab.set_input_files("#file", tmp_path / "photo.jpg")
            wait_until_settled(tab)
            wanted, (height, width) = read_input(tmp_path / "photo.jpg")
            got = np.array(tab.evaluate(PIXELS), int).reshape(height, width, 4)[..., :3]
            assert np.abs(got - wanted).max() <= 2


def test_each_task_is_shown(exports: dict[str, Path], tab: Page, photo: Path) -> None:
    names = {name.partition("-")[0]: name for name in EXPORTS}  # of one export of each task
    exports = {task: exports[name] for task, name in names.items()}
    panel = {task: panel_of(tab, folder) for task, folder in exports.items()}
    select(tab, exports["detection"])
    tab.set_input_files("#file", photo)
    expect(panel["detection"].locator(".answer")).to_contain_text("\u00d7")
    expect(tab.locator("#view")).to_be_hidden()  # the detectors draw on the image
    ratio = panel["detection"].locator("canvas").evaluate("canvas => canvas.width / canvas.height")
    assert ratio == pytest.approx(227 / 301, abs=0.01)  # it stands upright
    select(tab, *(exports[name] for name in ("dogs", "faces", "geo", "embedding")))
    for name, words in (("dogs", "%"), ("faces", "%"), ("geo", "°"), ("embedding", "this image")):
        expect(panel[name].locator(".answer")).to_contain_text(words)
    expect(tab.locator("#view")).to_be_visible()
    tab.get_by_role("button", name="Compare others").click()
    expect(panel["embedding"].locator(".big")).to_have_text("1.000")  # it is compared with itself
    expect(panel["embedding"].locator(".answer")).to_contain_text("1 of 100 pairs")
    kept = tab.evaluate_handle("() => reference.canvas")
    panel["embedding"].locator("figure canvas").last.evaluate("canvas => { canvas.dataset.own = ''; }")
    before = rows(panel["embedding"])
    tab.locator("#samples button").last.click()
    assert rows(panel["embedding"]) != before
    expect(panel["embedding"].locator("canvas[data-own]")).to_have_count(1)  # not a new one for each image
    tab.get_by_role("button", name="Compare others").click()
    assert kept.evaluate("canvas => canvas.width") == 0  # a phone has little memory for canvases


def test_measuring_gives_what_compare_shows(
    exports: dict[str, Path], whole: Path, chromium: Browser, tmp_path: Path
) -> None:
    with opened(chromium, f"{whole.as_uri()}?seconds=0.02") as tab:
        answered(tab)
        tab.click("#measure")
        expect(tab.locator("#json")).to_be_visible()
        found = json.loads(tab.input_value("#json"))
    assert [row["name"] for row in found["rows"]] == [exports[name].name for name in EXPORTS if "detection" in name]
    assert ["litert" in row["name"] for row in found["rows"]] == ["litert" in row["runtime"] for row in found["rows"]]
    for row in found["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["threads"] == 1
        assert row["images_per_second"] > 0
    folder = write_run(tmp_path, "detection", "phone")
    (folder / "browser.json").write_text(json.dumps(found))
    for name in EXPORTS:
        if "detection" in name:
            shutil.copytree(exports[name], folder / "export" / name)
    (run,) = read_runs(tmp_path)
    assert run.latency_ms == min(row["median_ms"] for row in found["rows"])


def test_a_browser_json_that_says_nothing_changes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "detection", "phone")
    (own,) = [run.latency_ms for run in read_runs(tmp_path)]
    for content in (
        "torn",
        "[1]",
        '{"rows": 3}',
        '{"rows": [{"median_ms": "fast"}, 1]}',
        '{"rows": [{"median_ms": NaN}]}',
    ):
        (folder / "browser.json").write_text(content)
        assert [run.latency_ms for run in read_runs(tmp_path)] == [own]


def test_webgpu_answers_alike(
    exports: dict[str, Path], runtimes: Path, launch: Callable[..., Browser], tmp_path: Path, photo: Path
) -> None:
    """With a software adapter."""
    path = build(tmp_path, exports["dogs-onnx"], settings=("webgpu=true", f"samples={photo}"))
    software = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    with launch(*software) as own, opened(own, path.as_uri()) as tab:
        answered(tab)
        panel = panel_of(tab, exports["dogs-onnx"])
        before = rows(panel)
        tab.select_option("#provider", "webgpu")
        expect(panel.locator("dd", has_text="WebGPU")).to_be_visible(timeout=2 * WAIT)
        assert flat(rows(panel)) == pytest.approx(flat(before), abs=1e-3)


def test_on_a_phone_in_the_dark_by_keyboard(whole: Path, chromium: Browser) -> None:
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    }
    with opened(chromium, whole.as_uri(), color_scheme="dark", **phone) as tab:
        answered(tab)
        for box in tab.locator("#chips input").all():
            box.check()
        tab.locator("#samples button").nth(1).focus()
        tab.keyboard.press("Enter")
        expect(tab.locator("#samples button").nth(1)).to_have_attribute("aria-pressed", "true")
        expect(tab.locator(".answer", has_text="Choose an image")).to_have_count(0)
        assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
        dark = tab.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 150
        assert tab.get_by_text("Take photo").is_visible()


def test_images_that_are_dropped_or_pasted(exports: dict[str, Path], scripted: Page, photo: Path) -> None:
    script = """([bytes, kind]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(bytes)], "photo.jpg", {type: "image/jpeg"}));
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, cancelable: true})
          : new ClipboardEvent("paste", {clipboardData: transfer});
        dispatchEvent(event);
    }"""
    tab, panel = scripted, panel_of(scripted, exports["detection-litert"])
    sample = rows(panel)
    for kind in ("drop", "paste"):
        tab.evaluate(script, [list(photo.read_bytes()), kind])
        expect(panel.locator("pre")).not_to_have_text(json.dumps(sample, separators=(",", ":")))
        dropped = rows(panel)
        assert dropped == answer(tab, exports["detection-litert"], photo)
        tab.locator("#samples button").first.click()
        assert rows(panel) == sample
