"""How the page is made, served and loaded, and what is said where something is wrong."""

import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import struct
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

import pytest
from playwright.sync_api import Browser, expect

from backbones.errors import UserError
from data.coco import DemoScenesData
from tasks import page
from tasks.engine.report import show
from tasks.export.package import VERSION
from tasks.web.exports import find_exports
from tasks.web.runtime import LITERT, ONNX
from tasks.web.samples import DRAWN, read_samples
from tasks.web.serve import announcement, server
from tests.conftest import ROOT, png_header
from tests.tasks.web.conftest import answer, answered, build, opened, panel_of, python, wait_until_settled


def test_threads_where_it_is_served(
    exports: dict[str, Path], dogs_page: Path, chromium: Browser, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(dogs_page, "localhost", 0) as running:
        assert running.server_address[0] in ("127.0.0.1", "::1")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://localhost:{running.server_address[1]}/"
        with opened(chromium, f"{address}?threads=2") as tab:
            answered(tab)
            assert "2 threads" in tab.inner_text("#footer")
            for folder in (exports["dogs-onnx"], exports["dogs-int8-litert"]):
                wanted, _ = python(folder, photo, monkeypatch)
                got = answer(tab, folder, photo)
                assert [row["score"] for row in got] == pytest.approx([row["score"] for row in wanted], abs=1e-2)
                assert "threads2" in panel_of(tab, folder).locator("dl").inner_text().replace("\n", "")
        running.shutdown()
    with server(dogs_page, "localhost", 0) as taken, pytest.raises(UserError, match="cannot be served"):
        server(dogs_page, "localhost", taken.server_address[1])


def test_a_browser_without_relaxed_simd(
    exports: dict[str, Path], dogs_page: Path, chromium: Browser, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Safari: LiteRT's other pair of files is used. (Shared memory, which the first pair needs, is refused too.)"""
    script = """WebAssembly.validate = () => false;
        WebAssembly.Memory = class extends WebAssembly.Memory {
            constructor(kind) { if (kind.shared) throw new Error("shared"); super(kind); }
        };"""
    folder = exports["dogs-int8-litert"]
    wanted, _ = python(folder, photo, monkeypatch)
    with opened(chromium, dogs_page.as_uri(), script=script) as tab:
        answered(tab)
        got = answer(tab, folder, photo)
    assert [row["score"] for row in got] == pytest.approx([row["score"] for row in wanted], abs=1e-2)


def test_the_command_serves_until_interrupted(exports: dict[str, Path], runtimes: Path, tmp_path: Path) -> None:
    settings = (f"exports={exports['dogs-onnx']}", f"output={tmp_path / 'page.html'}", "serve=true", "port=0")
    command = [sys.executable, "-m", "tasks.page", *settings]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job in the background ignores
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=heeds) as process:
        watchdog = threading.Timer(240, process.kill)
        watchdog.start()
        assert process.stdout
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://localhost:\d+/", line)))
        with urllib.request.urlopen(address, timeout=30) as response:
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert response.read() == (tmp_path / "page.html").read_bytes()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}model.json", timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        watchdog.cancel()


def test_a_browser_that_goes_away_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "page.html").write_bytes(bytes(1 << 25))  # more than the socket buffers hold
    with server(path, "localhost", 0) as running:
        running.daemon_threads = False  # so that the end waits for their answers
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with socket.create_connection(("localhost", running.server_port)) as browser:
            browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
            browser.recv(1000)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets on close
        running.shutdown()
    assert capsys.readouterr().err == ""


@contextmanager
def cdn(modules: Path, change: Callable[[bytes], bytes] = lambda content: content) -> Iterator[str]:
    """The address of a host that answers everybody with the packages' files, perhaps changed."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            runtime = next(r for r in (ONNX, LITERT) if self.path.startswith(f"/npm/{r.release}/{r.folder}/"))
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(change((modules / runtime.package / runtime.folder / Path(self.path).name).read_bytes()))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/npm"
        running.shutdown()


def test_linked_runtime(
    exports: dict[str, Path], runtimes: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    """It is loaded from the address given, and from a host that changed it, it is not."""
    both = (exports["dogs-int8-litert"], exports["dogs-onnx"])
    with cdn(runtimes) as address:
        path = build(tmp_path, *both, settings=("runtime=link", f"cdn={address}", f"samples={photo}"))
        assert path.stat().st_size < 2e6
        with opened(chromium, path.as_uri(), outside=address) as tab:
            answered(tab)
            for folder in both:
                assert len(answer(tab, folder, photo)) == 5
    changed = [b"\n"]
    with cdn(runtimes, lambda content: content + b"".join(changed)) as address:
        path = build(tmp_path, *both, settings=("runtime=link", f"cdn={address}", f"samples={photo}"))
        with opened(chromium, path.as_uri(), outside=address, problems=("integrity", "digest")) as tab:
            expect(tab.locator("#message")).to_contain_text("cannot be loaded from 127.0.0.1")
            changed.clear()
            assert tab.evaluate("() => runtime('onnx').then(() => true)")  # it can be asked for again


def copy_with(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of an export with other fields in its model.json."""
    shutil.copytree(folder, target)
    spec = json.loads((target / "model.json").read_text())
    (target / "model.json").write_text(json.dumps(spec | fields))
    return target


def test_an_untrusted_export_is_text(
    exports: dict[str, Path], runtimes: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    evil = "</script><img src=x onerror=alert(1)>{{script}}"
    fields = {"labels": [f"{evil}{i}" for i in range(12)], "note": evil, "task": evil}
    hostile = copy_with(exports["dogs-litert"], tmp_path / "<b onclick=alert(2)>", **fields)
    other = copy_with(exports["dogs-litert"], tmp_path / "other", answer="constructor", task=evil)
    path = build(tmp_path, hostile, other, settings=(f"runtime_folder={runtimes}",))
    with opened(chromium, path.as_uri()) as tab:
        tab.set_input_files("#file", photo)
        first, second = tab.locator("#models section").all()
        expect(first.locator(".bars")).to_contain_text(evil)
        assert first.locator("h2").inner_text().startswith("<b onclick=alert(2)>")
        expect(second.locator("table")).to_contain_text("probabilities")
        expect(second.locator("table")).to_contain_text("1 \u00d7 12")
        assert tab.locator("img[src=x]").count() == 0
        answered(tab)


def test_nothing_of_the_machine_goes_along(
    exports: dict[str, Path], whole: Path, runtimes: Path, tmp_path: Path
) -> None:
    """Earlier versions wrote paths of the machine that trained into model.json."""
    own = json.loads((exports["dogs-onnx"] / "model.json").read_text())
    provenance = {"config": own["provenance"]["config"] | {"teacher": "/home/ann/secret"}}
    earlier = copy_with(exports["dogs-onnx"], tmp_path / "earlier", provenance=provenance)
    texts = [whole.read_text(), build(tmp_path, earlier, settings=(f"runtime_folder={runtimes}",)).read_text()]
    for text in texts:
        assert str(exports["dogs-onnx"].parents[3]) not in text
        assert "secret" not in text
        assert re.findall(r"(?:src|href)\s*=\s*\"?https?:", text) == []


def test_what_goes_wrong_in_the_browser(whole: Path, chromium: Browser, tmp_path: Path) -> None:
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


def test_webassembly_that_is_blocked(whole: Path, chromium: Browser, photo: Path) -> None:
    """By a host's Content-Security-Policy."""
    policy = {"Content-Security-Policy": "script-src 'unsafe-inline' blob:"}
    with opened(chromium, "about:blank", outside="http://page.test/") as tab:
        tab.route("http://page.test/", lambda route: route.fulfill(path=whole, headers=policy))
        tab.goto("http://page.test/")
        expect(tab.locator("#message")).to_contain_text("WebAssembly is blocked")
        expect(tab.locator("#measure")).to_be_disabled()
        tab.set_input_files("#file", photo)
        wait_until_settled(tab)
        expect(tab.locator("#message")).to_contain_text("WebAssembly is blocked")  # which no image changes


def test_a_browser_that_is_too_old(dogs_page: Path, chromium: Browser) -> None:
    with opened(chromium, dogs_page.as_uri(), script="delete window.DecompressionStream;") as tab:
        expect(tab.locator("#message")).to_contain_text("this browser is too old; use Chrome 97")


def test_a_model_that_cannot_be_run(
    exports: dict[str, Path], runtimes: Path, chromium: Browser, tmp_path: Path, photo: Path
) -> None:
    """Its panel says so, and the others run."""
    bad = []
    for name, file, content in (
        ("dogs-onnx", "model.onnx", (exports["dogs-onnx"] / "model.onnx").read_bytes()[:5000]),
        ("dogs-litert", "model.tflite", (exports["dogs-litert"] / "model.tflite").read_bytes()[:5000]),
        ("geo-litert", "model.tflite", (exports["dogs-litert"] / "model.tflite").read_bytes()),  # with other outputs
    ):
        folder = copy_with(exports[name], tmp_path / name, task="dogs", sha256=hashlib.sha256(content).hexdigest())
        (folder / file).write_bytes(content)
        bad.append(folder)
    good = (exports["dogs-onnx"], exports["dogs-litert"])
    path = build(tmp_path, *bad, *good, settings=(f"runtime_folder={runtimes}", f"samples={photo}"))
    with opened(chromium, path.as_uri()) as tab:
        panels = tab.locator("#models section").all()
        for panel in panels[: len(bad)]:
            expect(panel.locator(".answer")).to_contain_text("This model cannot be run here")
        for panel in panels[len(bad) :]:
            expect(panel.locator(".bars")).to_contain_text("%")
        lose = "model => { model.session.run = () => { throw new Error('it is lost'); }; }"
        tab.evaluate(f"() => models.slice({len(bad)}).forEach({lose})")
        tab.set_input_files("#file", photo)
        for panel in panels[len(bad) :]:
            expect(panel.locator(".answer")).to_contain_text("it is lost")
            for stale in ("pre", "dl"):  # of the image before
                expect(panel.locator(stale)).to_be_empty()


def test_bad_settings(exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dogs, lite = exports["dogs-onnx"], exports["dogs-int8-litert"]
    (tmp_path / "empty").mkdir()
    executorch = copy_with(dogs, tmp_path / "executorch", format="executorch", file="model.pte")
    limits = copy_with(exports["detection-litert"], tmp_path / "limits", postprocess={"draw_threshold": 0.2})
    (torn := copy_with(dogs, tmp_path / "torn") / "model.json").write_text('{"format": "onn')
    lacking = copy_with(dogs, tmp_path / "lacking", input={"size": 96})
    other = copy_with(dogs, tmp_path / "other", sha256="0" * 64)
    elsewhere = copy_with(dogs, tmp_path / "elsewhere", file="../../../etc/passwd")
    pipe = copy_with(dogs, tmp_path / "pipe")
    (pipe / "model.json").unlink()
    os.mkfifo(pipe / "model.json")
    (headless := copy_with(dogs, tmp_path / "headless") / "model.onnx").unlink()
    for runtime in (ONNX, LITERT):
        (folder := tmp_path / "modules" / runtime.package / runtime.folder).mkdir(parents=True)
        (folder / next(iter(runtime.integrity))).write_text("something else")
    output = f"output={tmp_path / 'page.html'}"
    for settings, words in (
        (["exports=,"], "give the folder of an export or a run"),
        (["exports="], "give the folder of an export or a run"),
        ([f"exports={executorch},"], "a browser runs format=litert or onnx, not executorch"),
        ([f"exports={tmp_path / 'absent'}"], "there is no such folder"),
        ([f"exports={tmp_path / 'empty'}"], "there is no export in it; make one with python -m tasks.export"),
        ([f"exports={executorch}"], "a browser runs format=litert or onnx, not executorch"),
        ([f"exports={limits}"], "is damaged; export again"),
        ([f"exports={torn.parent}"], "is not valid JSON"),
        ([f"exports={lacking}"], "input.layout is neither uint8_nhwc nor float_nchw; export again"),
        ([f"exports={elsewhere}"], "is damaged: file must be model.onnx; export again"),
        ([f"exports={pipe}"], "it is not a regular file; export again"),
        ([f"exports={headless.parent}"], "there is no"),
        ([f"exports={other}"], "is not the file that model.json describes"),
        ([f"exports={dogs}", f"runtime_folder={tmp_path / 'empty'}"], "cannot be read"),
        ([f"exports={dogs}", f"runtime_folder={tmp_path / 'modules'}"], "is not that of onnxruntime-web@"),
        ([f"exports={lite}", f"runtime_folder={tmp_path / 'modules'}"], "is not that of @litertjs/core@"),
        ([f"exports={lite}", "webgpu=true"], "webgpu=true runs only format=onnx"),
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
    with pytest.raises(UserError, match=r"npm cannot fetch .* \(no network\); or npm install"):
        page.execute([f"exports={dogs}", output])
    assert not (tmp_path / "page.html").exists()


def test_an_export_of_a_newer_version(tmp_path: Path) -> None:
    (own,) = (ROOT / "tests" / "fixtures").glob("*/runs/*/*/export/*-onnx")
    assert find_exports(str(own))
    newer = copy_with(own, tmp_path / "newer", version=VERSION + 1)
    with pytest.raises(UserError, match="was written by a newer version of this suite; update to read it"):
        find_exports(str(newer))


def test_an_address_is_for_a_page_that_is_served() -> None:
    with pytest.raises(UserError, match=r"host=0\.0\.0\.0 port=80 has no effect without serve=true"):
        page.execute(["exports=x", "host=0.0.0.0", "port=80"])


@pytest.mark.parametrize(
    ("host", "address", "lines"),
    [
        ("localhost", "http://localhost:80/ with threads", 2),
        ("0.0.0.0", "http://localhost:80/ with threads", 3),
        ("::", "http://localhost:80/ with threads", 3),
        ("10.0.0.7", "http://10.0.0.7:80/ over plain http", 1),
        ("fd00::1", "http://[fd00::1]:80/ over plain http", 1),
    ],
)
def test_the_address_that_is_printed_works(host: str, address: str, lines: int) -> None:
    printed = announcement(host, 80)
    assert printed[0].startswith(f"serving {address}")
    assert len(printed) == lines


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "it is not an image of a known format"),
        (png_header(50_000, 50_000), "it has more pixels than max_pixels"),
    ],
)
def test_a_hostile_sample_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """Ghostscript is not started, and nothing is decoded."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'a.png'} cannot be read: {reason}")) as error:
        read_samples(str(tmp_path))
    assert "\n" not in str(error.value)


def test_samples_are_drawn_for_data_sets_that_there_are() -> None:
    assert DRAWN.keys() <= {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")}


def test_a_run_ends_by_saying_how_to_open_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"task": "detection", "epoch": 1, "metrics": {"ap": 0.5}, "primary": "ap", "limits": []}
    content |= {"phone_format": "litert"}
    show(content, tmp_path, DemoScenesData(str(tmp_path), 96, train=1, val=1, seed=0))
    assert f"python -m tasks.page exports={tmp_path}" in capsys.readouterr().out.replace("\n", "")


def test_all_cores_can_be_chosen(dogs_page: Path, chromium: Browser) -> None:
    for cores, choices in ((1, ["1"]), (3, ["1", "2", "3"]), (8, ["1", "2", "4", "8"])):
        script = f"Object.defineProperty(navigator, 'hardwareConcurrency', {{get: () => {cores}, configurable: true}});"
        with opened(chromium, dogs_page.as_uri(), script=script) as tab:
            assert tab.locator("#threads option").all_text_contents() == choices
            answered(tab)


def test_nothing_else_runs_while_the_page_measures(dogs_page: Path, chromium: Browser) -> None:
    """What is asked for meanwhile, as by another width of the window, is answered afterwards."""
    with opened(chromium, f"{dogs_page.as_uri()}?seconds=0.5") as tab:
        answered(tab)
        wait_until_settled(tab)
        tab.click("#measure")
        answers = "() => models.filter((m) => m.enabled).map((m) => m.times.length)"
        before = tab.evaluate(answers)
        assert tab.evaluate("() => byId('input').inert && byId('threads').disabled && byId('provider').disabled")
        tab.evaluate("() => { update(); }")
        tab.wait_for_timeout(300)
        assert tab.evaluate("() => measuring")
        assert tab.evaluate(answers) == before
        expect(tab.locator("#measure")).to_be_enabled()
        wait_until_settled(tab)
        assert tab.evaluate(answers) == [count + 1 for count in before]
        assert not tab.evaluate("() => byId('input').inert")
