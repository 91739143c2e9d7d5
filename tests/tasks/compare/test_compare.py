"""Runs side by side: the table, the page in a browser."""

import csv
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from backbones.errors import UserError
from tasks.compare.__main__ import main as compare_main
from tasks.compare.pair import compare_pair
from tasks.compare.runs import Run, frontier, read_runs
from tasks.engine.config import load_config
from tests.benchmarks.compare import write_image, write_run
from tests.conftest import command, png_header, untrained

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def compare(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Runs the command in this process and returns its exit status."""
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        compare_main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 finished runs of three tasks, an interrupted one, a killed one, and three broken ones."""
    root = tmp_path_factory.mktemp("generated")
    for task in ("detection", "dogs", "geo"):
        for i in range(12):
            write_run(root, task, f"run{i}")
    write_image(root / "dogs" / "run3")
    hostile = write_run(root, "dogs", "</script><b>x[/b]", changed={"ckpt": "<img src=x onerror=alert(1)>"})
    assert hostile.is_dir()
    write_run(root, "detection", "stopped", state="interrupted")
    (write_run(root, "detection", "killed") / "metrics.json").unlink()
    (write_run(root, "geo", "torn") / "metrics.json").write_text('{"state": "fini')
    (write_run(root, "geo", "odd") / "metrics.json").write_text("[1, 2]")
    (write_run(root, "geo", "lacking") / "metrics.json").write_text('{"state": "finished"}')
    return root


def test_unfinished_and_broken_runs_are_listed(generated: Path) -> None:
    states = {run.name: run.state for run in read_runs(generated)}
    assert states["run3"] == "finished"
    assert states["stopped"] == "interrupted"
    assert states["killed"] == "unfinished"
    for name in ("torn", "odd", "lacking"):
        assert states[f"geo/{name}"].startswith("broken: ")


def point(run: Run) -> tuple[float, float]:
    assert run.madds_m is not None
    assert run.primary is not None
    return run.madds_m, run.primary


def test_no_run_that_is_marked_is_beaten_and_each_other_is(generated: Path) -> None:
    """Against the definition, pair by pair."""
    finished = [run for run in read_runs(generated) if run.finished]
    for run in finished:
        cost, quality = point(run)
        rivals = [point(r) for r in finished if r.group == run.group and r is not run]
        beaten = any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in rivals)
        assert run.best is not beaten
    assert not any(run.best for run in read_runs(generated) if not run.finished)


def test_equal_points_are_kept_once() -> None:
    chance = random.Random(0)
    for _ in range(50):
        points = [(float(chance.randrange(5)), float(chance.randrange(5))) for _ in range(8)]
        kept = [points[i] for i in frontier(points)]
        wanted = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
        assert sorted(wanted) == kept


def test_the_command(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert compare(monkeypatch, f"runs={generated}", f"output={tmp_path}", "sort=madds") == 0
    printed = capsys.readouterr().out
    assert "37 of 42 runs finished" in printed
    section = printed[printed.index("dogs on demo_dogs") : printed.index("geo on earth")]
    rows = [cells for line in section.splitlines() if len(cells := line.split()) > 7 and cells[0] != "run"]
    shown = [float(cells[-6]) for cells in rows]
    assert shown == sorted(shown)
    assert len(shown) == 13
    assert "torn: broken: JSONDecodeError" in printed
    with (tmp_path / "compare.csv").open() as file:
        table = {(row["task"], row["name"]): row for row in csv.DictReader(file)}
    assert len(table) == 42
    content = json.loads((generated / "dogs" / "run3" / "metrics.json").read_text())
    assert float(table["dogs", "run3"]["top150/breed 4"]) == content["metrics"]["top150/breed 4"]
    assert float(table["dogs", "run3"]["latency_ms"]) == content["speed"]["latency_ms"]
    assert Image.open(tmp_path / "compare.png").width > 1000
    page = (tmp_path / "compare.html").read_text()
    assert re.findall(r"(?:src|href)\s*=\s*\"?https?:", page) == []  # a self-contained file
    assert "data:image/jpeg;base64," in page


def test_what_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for arguments, words in (
        ([f"runs={tmp_path / 'absent'}"], "there is no such folder"),
        ([f"runs={tmp_path}"], "there is no run in it; make one with python -m tasks.run"),
        ([f"a={tmp_path}"], "two runs are compared with a=<run folder> b=<run folder>"),
        (["sort=colour"], "choose from primary, madds"),
    ):
        assert compare(monkeypatch, *arguments) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert words in line


@pytest.fixture(scope="module")
def page(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, opened from disk in a browser; at the end, nothing must have gone wrong in it."""
    if not CHROMIUM:
        pytest.skip("needs a Chromium, such as Debian's package chromium")
    output = tmp_path_factory.mktemp("page")
    result = command("compare", f"runs={generated}", f"output={output}")
    assert result.returncode == 0, result.stderr
    problems: list[str] = []

    def note(url: str) -> None:
        if not url.startswith(("file:", "data:")):
            problems.append(url)

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.on("console", lambda message: problems.append(message.text))
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: problems.append(dialog.message))
        opened.on("request", lambda request: note(request.url))
        opened.goto((output / "compare.html").as_uri())
        yield opened
        browser.close()
    assert problems == []


def column(page: Page, task: str, number: int) -> list[str]:
    return page.locator(f"section[data-task={task}] table.runs td:nth-child({number})").all_inner_texts()


def test_the_page_shows_all_runs(page: Page) -> None:
    page.reload()
    assert [page.locator(f"section[data-task={t}]").count() for t in ("detection", "dogs", "geo")] == [1, 1, 1]
    assert page.locator("table.runs tbody tr").count() == 42
    assert "</script><b>x[/b]" in "".join(column(page, "dogs", 1))
    assert page.locator("section[data-task=dogs] svg .ours").count() == 13
    assert page.locator("section[data-task=dogs] svg path.paper").count() == 1 + 5  # in the legend, and Table 10


def test_the_axis_of_numbers_that_run_out_of_digits_ends(page: Page) -> None:
    page.reload()
    assert len(page.evaluate("ticks(1e15 - 0.125, 1e15, 5)")) <= 11  # 1e15 + 0.05 is 1e15: by adding it never ended
    assert page.evaluate("ticks(0.31, 0.78, 5)") == [0.4, 0.5, 0.6, 0.7]


def test_the_page_sorts(page: Page) -> None:
    page.reload()
    values = [float(v) for v in column(page, "dogs", 2)]
    assert values == sorted(values, reverse=True)
    button = page.locator("section[data-task=dogs] button[data-sort=madds_m]")
    button.click()
    values = [float(v) for v in column(page, "dogs", 3)]
    assert values == sorted(values)
    button.click()
    assert [float(v) for v in column(page, "dogs", 3)] == values[::-1]
    page.locator("section[data-task=detection] button[data-sort=name]").click()
    names = [name.removeprefix("★ ") for name in column(page, "detection", 1)]
    assert names == ["killed", *(f"run{i}" for i in range(12)), "stopped"]  # numbers by value


def test_the_page_filters(page: Page) -> None:
    page.reload()
    page.fill("#words", "dogs run1")
    assert {n.removeprefix("★ ") for n in column(page, "dogs", 1)} == {"run1", "run10", "run11"}
    assert page.locator("section[data-task=geo]").count() == 0
    page.fill("#words", "no such run")
    assert "No run matches" in page.inner_text("#groups")
    page.fill("#words", "")
    page.select_option("#task", "geo")
    assert page.locator("table.runs tbody tr").count() == 12
    page.check("#best")
    assert all(name.startswith("★") for name in column(page, "geo", 1))
    page.uncheck("#best")
    page.select_option("#task", "")
    page.select_option("#state", "0")
    assert page.locator("table.runs tbody tr").count() == 5
    page.select_option("#state", "")
    page.select_option("#cost", "params_m")
    assert "against parameters" in page.inner_text("section[data-task=dogs] .plots")
    page.uncheck("#paper")
    assert page.locator("svg path.paper").count() == 0


def test_a_run_that_is_chosen_shows_its_images_and_classes(page: Page) -> None:
    page.reload()
    page.locator("section[data-task=dogs] tr", has_text="run3").click()
    section = page.locator("section[data-task=dogs]")
    assert "dogs run3" in section.locator(".detail").inner_text()
    assert section.locator(".detail img").evaluate("image => image.complete && image.naturalWidth") == 900
    assert "breed 4" in section.locator(".plots").inner_text()
    page.locator("section[data-task=dogs] tr", has_text="</script>").click()
    assert "<img src=x onerror=alert(1)>" in section.locator(".detail code").inner_text()


# --- runs that are not trusted -----------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ODD: dict[str, dict[str, Any]] = {  # odd values in metrics.json or its settings
    "a width in words": {"settings": {"backbone": {"alpha": "wide", "rho": 1.0}}},
    "a width that is true": {"settings": {"backbone": {"alpha": True, "rho": 1.0}}},
    "a task that is a list": {"settings": {"task": {"name": ["dogs"]}}},
    "data that are a mapping": {"settings": {"groups": {"backbone": "mobilenet_v1", "data": {}}}},
    "a backbone that is a list": {"settings": {"backbone": []}},
    "metrics that are a list": {"metrics": [1, 2]},
    "a metric in words": {"metrics": {"top1": "good"}},
    "a metric out of range": {"metrics": {"top1": 1e300}},
    "a metric longer than a float": {"metrics": {"top1": 10**400}},
    "a name that is a number": {"primary": 5},
    "a cost of nothing": {"cost": {"madds_m": 0, "params_m": 1}},
    "no number as a cost": {"cost": {"madds_m": float("nan"), "params_m": 1}},
    "a latency in words": {"speed": {"latency_ms": "fast"}},
    "a speed that is a list": {"speed": []},
    "a size in words": {"resolution": "large"},
    "changes that are a number": {"changed": 5},
    "time that is a mapping": {"seconds": {}},
    "no state": {"state": None},
}


def odd_run(root: Path, name: str, more: dict[str, Any]) -> None:
    folder = write_run(root, "dogs", name)
    content = json.loads((folder / "metrics.json").read_text())
    settings = content["settings"] | more.get("settings", {})
    (folder / "metrics.json").write_text(json.dumps(content | more | {"settings": settings}))


def test_an_odd_run_is_broken_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for i in range(3):
        write_run(tmp_path, "dogs", f"good{i}")
    for name, more in ODD.items():
        odd_run(tmp_path, name, more)
    texts = {"a bomb": BOMB, "deep": "[" * 100_000, "long": "a: b\n" * 300_000, "undated": "a: 2026-13-45"}
    for name, text in texts.items():
        folder = write_run(tmp_path, "dogs", name)
        (folder / "metrics.json").unlink()
        (folder / "config.yaml").write_text(text)
    (write_run(tmp_path, "dogs", "nested") / "metrics.json").write_text("[" * 200_000)
    pipe = write_run(tmp_path, "dogs", "pipe") / "metrics.json"
    pipe.unlink()
    os.mkfifo(pipe)
    states = {run.name: run.state for run in read_runs(tmp_path)}
    for name in (*ODD, *texts, "nested", "pipe"):
        assert states[f"dogs/{name}"].startswith("broken: "), name
    assert compare(monkeypatch, f"runs={tmp_path}", f"output={tmp_path / 'out'}") == 0
    assert f"3 of {5 + len(ODD) + len(texts)} runs finished" in capsys.readouterr().out


def test_names_are_text_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    names = ["[/nope]", "=1+1", "$\\frac{$", "\x1b[2J", "\udcff", "x;=1+1", 'x; "@y']
    for i, name in enumerate(names):
        folder = write_run(tmp_path, "dogs", str(i), changed={name: name, "nan": float("nan")})
        folder = folder.rename(folder.with_name(name.replace("/", "|")))
        content = json.loads((folder / "metrics.json").read_text())
        content["settings"]["backbone"]["name"] = name
        content["settings"]["backbone"]["alpha"] = None
        content["settings"]["groups"]["data"] = "@SUM($1$)"
        content["metrics"] |= {f"{name}/x": -0.5, "+top": 1.0}
        (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "predictions.png").write_bytes(png_header(20_000, 20_000))
    assert compare(monkeypatch, f"runs={tmp_path}", f"output={tmp_path / 'out'}") == 0
    printed = capsys.readouterr().out
    assert "[|nope]" in printed
    assert "\x1b" not in printed
    data = (tmp_path / "out" / "compare.html").read_text().partition('id="data">')[2].partition("</script>")[0]
    json.loads(data, parse_constant=pytest.fail)  # JSON has no such constants
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert len(rows) == len(names)
    cells = [cell for row in (header, *rows) for cell in row]
    assert {"'=1+1", "'@SUM($1$)", "'+top", "-0.5"} <= set(cells)
    for cell in cells:
        assert cell[:1] not in ("=", "+", "@", "\t", "\r")
        assert cell[:1] != "-" or float(cell) < 0
        for part in cell.split(";")[1:]:  # the separator of cells where numbers have a decimal comma
            assert part.lstrip(" \"'")[:1] not in ("=", "+", "-", "@") or part.startswith("'")


def test_a_browser_measured_exports_of_several_runs(tmp_path: Path) -> None:
    """Each run shows the smallest latency of its own."""
    rows = [{"sha256": "a", "median_ms": 5.5}, {"sha256": "b", "median_ms": 1.5}, {"name": "c", "error": "torn"}]
    rows += [{"sha256": "a", "median_ms": 2.5}]
    own = {}
    for name in ("a", "b", "other"):
        folder = write_run(tmp_path, "dogs", name)
        own[name] = json.loads((folder / "metrics.json").read_text())["speed"]["latency_ms"]
        (folder / "export" / "x").mkdir(parents=True)
        (folder / "export" / "x" / "model.json").write_text(json.dumps({"sha256": name}))
        (folder / "browser.json").write_text(json.dumps({"rows": rows}))
    assert {r.name: r.latency_ms for r in read_runs(tmp_path)} == {"a": 2.5, "b": 1.5, "other": own["other"]}
    (tmp_path / "dogs" / "a" / "export" / "x" / "model.json").unlink()
    os.mkfifo(tmp_path / "dogs" / "a" / "export" / "x" / "model.json")
    assert {r.name: r.latency_ms for r in read_runs(tmp_path)}["a"] == own["a"]


def test_nothing_is_written_or_shown_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, secret = tmp_path / "victim", tmp_path / "secret"
    victim.write_text("precious")
    write_image(secret.parent)
    (tmp_path / "predictions.png").rename(secret)
    runs = tmp_path / "runs"
    (write_run(runs, "dogs", "a") / "predictions.png").symlink_to(secret)
    for name in ("compare.csv", "compare.html", "compare.png"):
        (runs / name).symlink_to(victim)
    assert compare(monkeypatch, f"runs={runs}") == 0
    assert victim.read_text() == "precious"
    assert "data:image" not in (runs / "compare.html").read_text()


@pytest.mark.parametrize("name", ["/", "..", "../a", "linked"])
def test_a_part_of_a_run_is_in_its_folder(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "dogs", "a")
    (folder / "linked").symlink_to(tmp_path)
    content = json.loads((folder / "metrics.json").read_text())
    content["parts"] = {name: dict(content)}
    content["settings"] = content["settings"] | {"parts": {name: content["settings"]}}
    (folder / "metrics.json").write_text(json.dumps(content))
    found = [run for run in read_runs(tmp_path) if run.state.startswith("broken")]
    assert [run.folder for run in found] == [folder]


@pytest.mark.parametrize("cost", [10**400, [], "x"], ids=["huge", "list", "words"])
def test_a_part_of_odd_cost_is_broken(cost: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "dogs", "a")
    content = json.loads((folder / "metrics.json").read_text())
    content["parts"] = {"faces": content | {"cost": {"madds_m": cost, "params_m": 1}}}
    content["settings"] = content["settings"] | {"parts": {"faces": content["settings"]}}
    (folder / "metrics.json").write_text(json.dumps(content))
    states = [run.state.partition(":")[0] for run in read_runs(tmp_path)]
    assert sorted(states) == ["broken", "finished"]


def test_images_of_other_classes_are_not_compared(dogs: Path, tmp_path: Path) -> None:
    shutil.copytree(dogs / "Images", tmp_path / "data" / "Images")
    shutil.rmtree(min((tmp_path / "data" / "Images").iterdir()))
    given = ("task=classification", "data=folders", "data.train=Images", "data.val=Images", "data.workers=0")
    small = ("backbone.alpha=0.25", "backbone.variant=shallow", "task.resolution=32")
    roots = {"a": dogs, "b": tmp_path / "data"}
    a, b = (untrained(tmp_path / name, *given, *small, f"data.root={root}") for name, root in roots.items())
    with pytest.raises(UserError, match="b does not know the same classes as a"):
        compare_pair(load_config([f"a={a}", f"b={b}"], "compare"))
