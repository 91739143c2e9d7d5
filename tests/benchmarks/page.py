"""python -m tests.benchmarks.page <export folder> ...: exports in Chromium against the same files outside of it.

Each is measured with one thread and with two, by the page's own code, between two measurements in the file's native
runtime with the same protocol. A LiteRT export with the ONNX export beside it, both float or both int8, has a second
ratio, to ONNX Runtime. All ratios are of 10th percentiles, which a busy machine disturbs less than medians. The NMS of
a LiteRT detector is in the browser's time and not in LiteRT's. Then the time from opening each export's page from disk
to its first answer: the minimum of several.
"""

import argparse
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from data.demo.scenes import write_scenes
from tasks import page
from tasks.export.formats import FORMATS
from tasks.export.package import read_spec
from tasks.export.speed import times
from tasks.web.serve import server
from tests.benchmarks.timing import machine

OPENED = 3


def native(folder: Path, threads: int, seconds: float) -> list[float]:
    """Repeated times of an image, in milliseconds."""
    spec = read_spec(folder)
    shape = [1, *spec["input"]["shape"][1:]]
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(spec["input"]["type"])
    runner = FORMATS[spec["format"]].runner(folder / spec["file"], threads)
    return [1e3 * t for t in times(lambda: runner(pixels), seconds)]


@contextmanager
def served(path: Path) -> Iterator[str]:
    with server(path, "localhost", 0) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://localhost:{running.server_address[1]}/"
        running.shutdown()


def in_browser(browser: Browser, address: str, threads: int, seconds: float) -> list[float]:
    """Likewise, as the page measures it."""
    with browser.new_context(bypass_csp=True) as context:
        tab = context.new_page()
        tab.set_default_timeout(300_000)
        tab.goto(f"{address}?threads={threads}")
        tab.locator("#footer", has_text=f"{threads} thread").wait_for()
        found: list[float] = tab.evaluate("seconds => times(models[0], 1, seconds)", seconds)
    return found


def opening(browser: Browser, path: Path) -> float:
    """Seconds from opening a page to its first answer."""
    found = []
    for _ in range(OPENED):
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.locator("#footer:not(:empty)").wait_for(timeout=300_000)
        found.append(float(tab.inner_text("#footer").partition("first answer ")[2].split()[0]))
        tab.close()
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as play:
        root = Path(temporary)
        write_scenes(root / "scenes", train=1, val=1)
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        print(f"{machine()}, Chromium {browser.version}")
        columns = ["export", "threads", "native, ms", "browser, ms", "native, fastest tenth", "browser", "ratio"]
        columns += ["to ONNX Runtime", "page, MB", "first answer, s"]
        print(f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|", flush=True)
        for i, folder in enumerate(arguments.exports):
            settings = (f"samples={root / 'scenes' / 'val'}", f"output={root / str(i) / 'page.html'}")
            path = page.execute([f"exports={folder}", *settings])
            opened = opening(browser, path)
            for threads in (1, 2):
                with served(path) as address:
                    outside = native(folder, threads, arguments.seconds)
                    inside = in_browser(browser, address, threads, arguments.seconds)
                    outside += native(folder, threads, arguments.seconds)
                (a, b), (c, d) = (np.quantile(times_, (0.5, 0.1)) for times_ in (outside, inside))
                ratio = "-"
                partner = folder.with_name(folder.name.replace("-litert", "-onnx"))
                if partner != folder and partner.is_dir():
                    ratio = f"{d / np.quantile(native(partner, threads, arguments.seconds), 0.1):.2f}"
                figures = [f"{a:.2f}", f"{c:.2f}", f"{b:.2f}", f"{d:.2f}", f"{d / b:.2f}", ratio]
                weight = f"{path.stat().st_size / 1e6:.1f}"
                print(f"| {' | '.join([folder.name, str(threads), *figures, weight, f'{opened:.2f}'])} |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
