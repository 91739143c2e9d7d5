"""The page that runs exports in a browser: answers equal Python's, and what is said where something is wrong."""

import http.server
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from backbones.errors import UserError
from data.scenes import DemoScenesData
from tasks import page, run
from tasks.compare.runs import read_runs
from tasks.engine.train import show
from tasks.export import __main__ as export
from tasks.web import runtime as pinned
from tasks.web.serve import server
from tests.benchmarks.compare import write_run
from tests.conftest import ROOT, TINY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = ("backbone.alpha=0.25", "task.resolution=32", "data.batch_size=8", "data.workers=0")
FEW = (*SMALL, "data.people=20", "data.images_per_identity=3")
MORE = ("trainer.max_epochs=15", "trainer.validate_every=15", "trainer.lr=0.02")  # until scores differ
TASKS = {
    "detection": ("data=demo_scenes", "data.root={scenes}", "task.draw_threshold=0.2", *TINY, *MORE),
    "dogs": (
        "data=dogs",
        "data.root={dogs}",
        "data.center_crop=0.875",
        *(s for s in TINY if not s.startswith(("data.train", "data.val"))),
    ),
    "faces": ("data=demo_faces", "data.root={faces}", *FEW),
    "embedding": ("data=demo_people", "data.root={faces}", "task.dim=16", *FEW),
    "geo": ("data.train=60", "data.val=12", "data.gallery=12", "data.size=32", "data.generated=true", *SMALL),
}
BOTH = ("detection", "dogs")  # that are exported in int8 too
WAIT = 60_000  # ms


@pytest.fixture(scope="session")
def exports(scenes: Path, dogs: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of exports of tiny networks, by task, and <task>-int8."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for task, settings in TASKS.items():
        own = [s.format(scenes=scenes, dogs=dogs, faces=faces) for s in settings]
        common = (f"paths.runs={root}", f"paths.data={root}", "name=tiny", "logger.images=0", "trainer.max_epochs=1")
        run.execute([f"task={task}", *common, *own])
        for quantize in ("none", "int8") if task in BOTH else ("none",):
            folder = export.execute(
                [f"ckpt={root / task / 'tiny'}", f"quantize={quantize}", "max_drop=100", "calibration=8"]
            )
            found[task if quantize == "none" else f"{task}-int8"] = folder
    return found


@pytest.fixture(scope="session")
def runtime() -> Path:
    """onnxruntime-web's files."""
    try:
        pinned.runtime_files(False, None)
    except UserError as error:
        pytest.skip(f"needs onnxruntime-web: {error}")
    return pinned.cache_folder() / f"{pinned.PACKAGE}-{pinned.VERSION}"


@pytest.fixture(scope="session")
def whole(exports: dict[str, Path], runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every export."""
    return build(tmp_path_factory.mktemp("page"), *exports.values())


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
    browser: Browser, url: str, *, problems: tuple[str, ...] = (), outside: str = "", **settings: Any
) -> Iterator[Page]:
    """The page at an address. At the end, nothing must have gone wrong in it but what `problems` has words of, and
    nothing must have been requested that is not in the page itself, or at an address that `outside` begins.
    """
    found: list[str] = []
    context = browser.new_context(**settings)
    context.set_default_timeout(WAIT)
    tab = context.new_page()
    tab.on("console", lambda message: found.append(message.text))
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("dialog", lambda dialog: found.append(dialog.message))
    own = ("data:", "blob:", url.partition("?")[0], outside or url)
    tab.on("request", lambda request: request.url.startswith(own) or found.append(request.url))
    tab.goto(url)
    yield tab
    context.close()
    assert [text for text in found if not any(words in text for words in problems)] == []
    assert bool(found) == bool(problems)


@pytest.fixture(scope="module")
def tab(chromium: Browser, whole: Path) -> Iterator[Page]:
    """The page with every export, opened from disk."""
    with opened(chromium, whole.as_uri()) as own:
        answered(own)
        yield own


def answered(tab: Page) -> None:
    expect(tab.locator("#footer")).to_contain_text("first answer", timeout=WAIT)


def answer(tab: Page, folder: Path, image: Path) -> list[dict[str, Any]]:
    """What the page says of an image by one of its exports alone."""
    select(tab, folder)
    panel = panel_of(tab, folder)
    tab.set_input_files("#file", image)
    return rows(panel)


def select(tab: Page, *folders: Path) -> None:
    """Has these exports, and no others, answer."""
    for name in tab.locator("#chips label").all_inner_texts():
        tab.locator("#chips").get_by_label(name, exact=True).set_checked(name in {f.name for f in folders})


def panel_of(tab: Page, folder: Path) -> Locator:
    return tab.locator(f'section[data-name="{folder.name}"]')


def rows(panel: Locator) -> list[dict[str, Any]]:
    """The rows of a panel, once they no longer change."""
    before = None
    for _ in range(100):
        panel.page.wait_for_timeout(150)
        now = panel.locator("pre").text_content()
        if now and now == before:
            break
        before = now
    found: list[dict[str, Any]] = json.loads(now)
    return found


def python(folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What example.py says of an image, and the outputs of which it says so."""
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


@pytest.fixture(scope="module")
def photo(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo that is stored on its side, as phones do."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    image = Image.open(next((scenes / "val").glob("*.jpg"))).resize((301, 227))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    image.save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("name", [*TASKS, "detection-int8", "dogs-int8"])
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


def flat(value: Any) -> list[float]:
    """The numbers in nested lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_images_become_the_input_that_pillow_makes(whole: Path, chromium: Browser) -> None:
    rng = np.random.default_rng(0)
    with opened(chromium, whole.as_uri(), bypass_csp=True) as tab:
        answered(tab)
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
                image = image.crop(tuple(round(v) for v in (left, top, left + side, top + side)))
            wanted = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
            script = """([pixels, width, height, size, centre]) => {
                const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
                pixels.forEach((value, i) => { rgba[4 * Math.floor(i / 3) + i % 3] = value; });
                return Array.from(resize(rgba, width, region({center_crop: centre}, width, height), size));
            }"""
            got = tab.evaluate(script, [pixels.ravel().tolist(), width, height, size, centre])
            np.testing.assert_array_equal(np.array(got).reshape(size, size, 3), wanted)


def test_each_task_is_shown(exports: dict[str, Path], tab: Page, photo: Path) -> None:
    panel = {name: panel_of(tab, folder) for name, folder in exports.items()}
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
    before = rows(panel["embedding"])
    tab.locator("#samples button").last.click()
    assert rows(panel["embedding"]) != before


@pytest.fixture(scope="module")
def video(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake camera sees: Motion JPEG."""
    path = tmp_path_factory.mktemp("video") / "camera.mjpeg"
    with path.open("wb") as file:
        for image in sorted((scenes / "train").glob("*.jpg"))[:12]:
            buffer = io.BytesIO()
            Image.open(image).resize((320, 240)).save(buffer, "JPEG", quality=90)
            file.write(buffer.getvalue())
    return path


def test_camera_frames_are_answered(
    exports: dict[str, Path], whole: Path, video: Path, launch: Callable[..., Browser]
) -> None:
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with launch(*fake, f"--use-file-for-fake-video-capture={video}") as own, opened(own, whole.as_uri()) as tab:
        answered(tab)
        panel = panel_of(tab, exports["detection"])
        tab.click("#camera")
        expect(panel.locator("dl")).to_contain_text("frames a second")
        expect(panel.locator("dl")).to_contain_text("median of 30", timeout=WAIT)
        seen = set()
        for _ in range(20):
            seen.add(panel.locator("pre").text_content())
            tab.wait_for_timeout(100)
        assert len(seen) > 2  # other frames have other answers
        tab.click("#camera")
        expect(tab.locator("#camera")).to_have_attribute("aria-pressed", "false")


def test_measuring_gives_what_compare_shows(
    exports: dict[str, Path], whole: Path, chromium: Browser, tmp_path: Path
) -> None:
    with opened(chromium, f"{whole.as_uri()}?seconds=0.02") as tab:
        answered(tab)
        tab.click("#measure")
        expect(tab.locator("#json")).to_be_visible(timeout=WAIT)
        found = json.loads(tab.input_value("#json"))
    assert [row["name"] for row in found["rows"]] == [exports["detection"].name, exports["detection-int8"].name]
    for row in found["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["threads"] == 1
        assert row["images_per_second"] > 0
    folder = write_run(tmp_path, "detection", "phone")
    (folder / "browser.json").write_text(json.dumps(found))
    write_run(tmp_path, "detection", "other")
    latency = {run.name: run.latency_ms for run in read_runs(tmp_path)}
    assert latency["phone"] == min(row["median_ms"] for row in found["rows"])
    assert latency["other"] != latency["phone"]


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


def test_threads_where_it_is_served(
    exports: dict[str, Path],
    runtime: Path,
    chromium: Browser,
    tmp_path: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = build(tmp_path, exports["dogs"], settings=(f"samples={photo}",))
    wanted, _ = python(exports["dogs"], photo, monkeypatch)
    with server(path, "localhost", 0) as running:
        assert running.server_address[0] in ("127.0.0.1", "::1")
        threading.Thread(target=running.serve_forever).start()
        address = f"http://localhost:{running.server_address[1]}/"
        with opened(chromium, f"{address}?threads=2") as tab:
            answered(tab)
            assert "2 threads" in tab.inner_text("#footer")
            got = answer(tab, exports["dogs"], photo)
        running.shutdown()
    assert flat(got) == pytest.approx(flat(wanted), abs=2e-4)
    with server(path, "localhost", 0) as taken, pytest.raises(UserError, match="cannot be served"):
        server(path, "localhost", taken.server_address[1])


def test_the_command_serves_until_interrupted(exports: dict[str, Path], runtime: Path, tmp_path: Path) -> None:
    settings = (f"exports={exports['dogs']}", f"output={tmp_path / 'page.html'}", "serve=true", "port=0")
    command = [sys.executable, "-m", "tasks.page", *settings]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job in the background does not
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=heeds) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stdout
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://localhost:\d+/", line)))
        with urllib.request.urlopen(address, timeout=30) as response:
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert response.read() == (tmp_path / "page.html").read_bytes()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}model.json", timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        watchdog.cancel()


@contextmanager
def cdn(files: Path, change: Callable[[bytes], bytes] = lambda content: content) -> Iterator[str]:
    """The address of a host that answers everybody with the package's files, perhaps changed."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith(f"/npm/{pinned.PACKAGE}@{pinned.VERSION}/dist/")
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(change((files / self.path.rpartition("/")[2]).read_bytes()))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/npm"
        running.shutdown()


def test_linked_runtime(
    exports: dict[str, Path], runtime: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    """It is loaded from the address given, and from a host that changed it, it is not."""
    with cdn(runtime) as address:
        path = build(tmp_path, exports["dogs"], settings=("runtime=link", f"cdn={address}", f"samples={photo}"))
        assert path.stat().st_size < 2e6
        with opened(chromium, path.as_uri(), outside=address) as tab:
            answered(tab)
            assert len(answer(tab, exports["dogs"], photo)) == 5
    with cdn(runtime, lambda content: content + b"\n") as address:
        path = build(tmp_path, exports["dogs"], settings=("runtime=link", f"cdn={address}", f"samples={photo}"))
        with opened(chromium, path.as_uri(), outside=address, problems=("integrity", "digest")) as tab:
            expect(tab.locator("#message")).to_contain_text("cannot be loaded from 127.0.0.1")


def test_webgpu_answers_alike(
    exports: dict[str, Path], runtime: Path, launch: Callable[..., Browser], tmp_path: Path, photo: Path
) -> None:
    """By an adapter in software."""
    path = build(tmp_path, exports["dogs"], settings=("webgpu=true", f"samples={photo}"))
    software = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    with launch(*software) as own, opened(own, path.as_uri()) as tab:
        answered(tab)
        panel = panel_of(tab, exports["dogs"])
        before = rows(panel)
        tab.select_option("#provider", "webgpu")
        expect(panel.locator("dd", has_text="WebGPU")).to_be_visible(timeout=2 * WAIT)
        assert flat(rows(panel)) == pytest.approx(flat(before), abs=1e-3)


def changed(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of an export with other fields in its model.json."""
    shutil.copytree(folder, target)
    spec = json.loads((target / "model.json").read_text())
    (target / "model.json").write_text(json.dumps(spec | fields))
    return target


def test_a_strangers_export_is_text(
    exports: dict[str, Path], runtime: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    evil = "</script><img src=x onerror=alert(1)>{{script}}"
    fields = {"labels": [f"{evil}{i}" for i in range(12)], "note": evil, "task": evil, "file": "../../../etc/passwd"}
    hostile = changed(exports["dogs"], tmp_path / "<b onclick=alert(2)>", **fields)
    stranger = changed(exports["dogs"], tmp_path / "stranger", answer="constructor", task=evil)
    path = build(tmp_path, hostile, stranger)
    with opened(chromium, path.as_uri()) as tab:
        tab.set_input_files("#file", photo)
        first, second = tab.locator("#models section").all()
        expect(first.locator(".bars")).to_contain_text(evil)
        assert first.locator("h2").inner_text().startswith("<b onclick=alert(2)>")
        expect(second.locator("table")).to_contain_text("probabilities")
        expect(second.locator("table")).to_contain_text("1 \u00d7 12")
        assert tab.locator("img[src=x]").count() == 0
        answered(tab)


def test_nothing_of_the_machine_goes_along(exports: dict[str, Path], whole: Path) -> None:
    """model.json knows the paths of the machine that trained."""
    text = whole.read_text()
    root = str(exports["dogs"].parents[3])
    assert root in (exports["dogs"] / "model.json").read_text()
    assert root not in text
    assert re.findall(r"(?:src|href)\s*=\s*\"?https?:", text) == []


def test_on_a_phone_in_the_dark_by_keyboard(whole: Path, chromium: Browser) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
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


def test_images_that_are_dropped_or_pasted(
    exports: dict[str, Path], whole: Path, chromium: Browser, photo: Path
) -> None:
    script = """([bytes, kind]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(bytes)], "photo.jpg", {type: "image/jpeg"}));
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, cancelable: true})
          : new ClipboardEvent("paste", {clipboardData: transfer});
        dispatchEvent(event);
    }"""
    with opened(chromium, whole.as_uri(), bypass_csp=True) as tab:
        answered(tab)
        panel = panel_of(tab, exports["detection"])
        sample = rows(panel)
        for kind in ("drop", "paste"):
            tab.evaluate(script, [list(photo.read_bytes()), kind])
            expect(panel.locator("pre")).not_to_have_text(json.dumps(sample, separators=(",", ":")))
            dropped = rows(panel)
            assert dropped == answer(tab, exports["detection"], photo)
            tab.locator("#samples button").first.click()
            assert rows(panel) == sample


def test_what_goes_wrong_in_the_browser(
    whole: Path, chromium: Browser, launch: Callable[..., Browser], tmp_path: Path
) -> None:
    message = "#message"
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8torn")
    with opened(chromium, whole.as_uri()) as tab:
        answered(tab)
        tab.set_input_files("#file", tmp_path / "torn.jpg")
        expect(tab.locator(message)).to_contain_text("torn.jpg cannot be decoded")
        tab.locator("#samples button").first.click()
        expect(tab.locator(message)).to_be_hidden()
        tab.click("#camera")
        expect(tab.locator(message)).to_contain_text("device has no camera")
    with launch("--use-fake-device-for-media-stream") as own, opened(own, whole.as_uri()) as tab:
        tab.click("#camera")
        expect(tab.locator(message)).to_contain_text("The camera was refused")


def test_webassembly_that_is_blocked(whole: Path, chromium: Browser) -> None:
    """As by a host whose policy does not allow it."""
    policy = {"Content-Security-Policy": "script-src 'unsafe-inline' blob:"}
    with opened(chromium, "about:blank", outside="http://page.test/") as tab:
        tab.route("http://page.test/", lambda route: route.fulfill(path=whole, headers=policy))
        tab.goto("http://page.test/")
        expect(tab.locator("#message")).to_contain_text("WebAssembly is blocked")
        expect(tab.locator("#measure")).to_be_disabled()


def test_a_model_that_cannot_be_run(
    exports: dict[str, Path], runtime: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    """Its panel says so, and the others run."""
    import hashlib

    torn = (exports["dogs"] / "model.onnx").read_bytes()[:5000]
    folder = changed(exports["dogs"], tmp_path / "torn", sha256=hashlib.sha256(torn).hexdigest())
    (folder / "model.onnx").write_bytes(torn)
    path = build(tmp_path, folder, exports["dogs"], settings=(f"samples={photo}",))
    with opened(chromium, path.as_uri()) as tab:
        first, second = tab.locator("#models section").all()
        expect(first.locator(".answer")).to_contain_text("This model cannot be run here")
        expect(second.locator(".bars")).to_contain_text("%")


def test_bad_settings(exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dogs = exports["dogs"]
    (tmp_path / "empty").mkdir()
    litert = changed(dogs, tmp_path / "litert", format="litert")
    (torn := changed(dogs, tmp_path / "torn") / "model.json").write_text('{"format": "onn')
    lacking = changed(dogs, tmp_path / "lacking", input={"size": 96})
    other = changed(dogs, tmp_path / "other", sha256="0" * 64)
    pipe = changed(dogs, tmp_path / "pipe")
    (pipe / "model.json").unlink()
    os.mkfifo(pipe / "model.json")
    (headless := changed(dogs, tmp_path / "headless") / "model.onnx").unlink()
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / pinned.WASM[0]).write_text("something else")
    output = f"output={tmp_path / 'page.html'}"
    for settings, words in (
        ([f"exports={tmp_path / 'absent'}"], "there is no such folder"),
        ([f"exports={tmp_path / 'empty'}"], "there is no export in it; make one with python -m tasks.export"),
        ([f"exports={litert}"], "a browser runs format=onnx, not litert"),
        ([f"exports={torn.parent}"], "is damaged; export again"),
        ([f"exports={lacking}"], "is damaged; export again"),
        ([f"exports={pipe}"], "is damaged; export again"),
        ([f"exports={headless.parent}"], "there is no"),
        ([f"exports={other}"], "is not the file that model.json describes"),
        ([f"exports={dogs}", f"runtime_folder={tmp_path / 'empty'}"], "cannot be read"),
        ([f"exports={dogs}", f"runtime_folder={tmp_path / 'dist'}"], "is not that of onnxruntime-web"),
        ([f"exports={dogs}", f"samples={tmp_path / 'empty'}"], "there is no image of that name"),
        ([f"exports={dogs}", "runtime=link", "cdn=ftp://host"], "is not an address"),
        ([f"exports={dogs}", "runtime=remote"], "choose from inline, link"),
    ):
        with pytest.raises(UserError, match=re.escape(words)) as error:
            page.execute([*settings, output])
        assert "\n" not in str(error.value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm, which is not installed"):
        page.execute([f"exports={dogs}", output])
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UserError, match=r"npm cannot fetch .* \(no network\); or download"):
        page.execute([f"exports={dogs}", output])
    assert not (tmp_path / "page.html").exists()


def test_a_run_ends_by_saying_how_to_open_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"task": "detection", "epoch": 1, "metrics": {"ap": 0.5}, "primary": "ap"}
    show(content, tmp_path, DemoScenesData(str(tmp_path), 96, train=1, val=1, seed=0))
    assert f"python -m tasks.page exports={tmp_path}" in capsys.readouterr().out.replace("\n", "")
