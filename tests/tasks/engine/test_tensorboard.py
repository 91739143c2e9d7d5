"""What real runs write for comparison: TensorBoard over HTTP, the trade-off of a sweep, two runs side by side."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard import program

from tasks.run import execute
from tests.conftest import TINY, command
from tests.tasks.compare.test_compare import compare


@pytest.fixture(scope="module")
def trained(scenes: Path, dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two detectors, and a run on dogs."""
    runs = tmp_path_factory.mktemp("trained")
    short = (
        "experiment=smoke",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.log_every=1",
        f"paths.runs={runs}",
    )
    tiny = [a for a in TINY if not a.startswith(("backbone.", "trainer."))]
    result = command("run", "-m", *short, *tiny, "data=demo_scenes", f"data.root={scenes}", "backbone.alpha=0.25,0.5")
    assert result.returncode == 0, result.stderr
    few = ("task.resolution=64", "data.batch_size=8", "data.workers=0", "backbone.alpha=0.25", f"data.root={dogs}")
    execute(
        ["task=dogs", "data=dogs", *short, *few, "name=dogs", "trainer.progress_bar=false", "task.label_smoothing=0.1"]
    )
    return runs


def test_a_run_folder_holds_no_file_of_lightnings(trained: Path) -> None:
    assert list(trained.rglob("hparams.yaml")) == []
    content = json.loads((trained / "dogs" / "dogs" / "metrics.json").read_text())
    assert content["step"] == 2  # trainer.limit_train_batches
    assert content["speed"]["latency_ms"] > 0
    assert content["changed"]["task.label_smoothing"] == 0.1
    assert not {"name", "data.root", "paths.runs", "backbone.padding"} & set(content["changed"])


def test_a_sweep_ends_with_its_trade_off(trained: Path) -> None:
    (sweep,) = (trained / "sweeps").iterdir()
    assert len((sweep / "runs.txt").read_text().split()) == 2
    assert Image.open(sweep / "tradeoff.png").width > 1000


@pytest.fixture(scope="module")
def board(trained: Path) -> str:
    """The address of a TensorBoard that has read the runs."""
    server = program.TensorBoard()
    # read once: its thread would log during other tests
    once = ["--load_fast", "false", "--reload_interval", "0"]
    server.configure(argv=[None, "--logdir", str(trained), "--port", "0", *once])
    address = server.launch()
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        # a run is listed before it is read completely; its final values come last
        tags = ask(address, "scalars/tags").values()
        complete = [found for found in tags if "final/primary" in found]
        drawn = any("tradeoff" in found for found in ask(address, "images/tags").values())
        if len(complete) == 3 and drawn and len(sessions(address)) == 3:
            return address
        time.sleep(0.2)
    raise AssertionError("TensorBoard has not read the runs")


def ask(address: str, place: str, body: dict[str, Any] | None = None) -> Any:
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}data/plugin/{place}", sent, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def sessions(address: str) -> list[dict[str, Any]]:
    """The rows of the HParams tab."""
    metrics = ask(address, "hparams/experiment", {}).get("metricInfos", [])
    columns = [{"metric": m["name"]} for m in metrics]
    states = ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"]
    body = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": states, "colParams": columns}
    return ask(address, "hparams/session_groups", body).get("sessionGroups", [])


def test_tensorboards_hparams_tab_compares_tasks(board: str, trained: Path) -> None:
    found = {group["hparams"]["task"] + str(group["hparams"]["backbone.alpha"]): group for group in sessions(board)}
    assert set(found) == {"detection0.25", "detection0.5", "dogs0.25"}
    dogs = found["dogs0.25"]
    assert dogs["hparams"]["metric"] == "top1"
    assert "task.label_smoothing=0.1" in dogs["hparams"]["other settings"]
    values = {m["name"]["tag"]: m["value"] for m in dogs["metricValues"] if m["name"]["group"] == ""}
    content = json.loads((trained / "dogs" / "dogs" / "metrics.json").read_text())
    assert values["final/primary"] == pytest.approx(content["metrics"]["primary"])
    assert values["cost/madds_m"] == pytest.approx(content["cost"]["madds_m"])
    assert values["speed/latency_ms"] == pytest.approx(content["speed"]["latency_ms"])
    assert set(values) == {m["name"]["tag"] for m in found["detection0.5"]["metricValues"]}


def test_tensorboards_scalars_have_common_names_and_a_layout(board: str) -> None:
    runs = {run: set(tags) for run, tags in ask(board, "scalars/tags").items() if not run.startswith("sweeps")}
    common = {"metric/primary", "cost/madds_m", "cost/params_m", "speed/latency_ms", "train/loss"}
    assert len(runs) == 3
    assert all(common <= tags for tags in runs.values())
    layout = ask(board, "custom_scalars/layout")
    charts = [chart["multiline"]["tag"] for category in layout["category"] for chart in category["chart"]]
    assert all(any(re.match(tag, name) for name in common) for (tag,) in charts)
    assert len(charts) == len(common)
    images = ask(board, "images/tags")
    assert any("tradeoff" in tags for tags in images.values())


def test_two_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    small, large = sorted((trained / "detection").iterdir(), key=lambda p: p.name.rpartition("-a")[2])
    (tmp_path / "pair.png").symlink_to(tmp_path / "victim")
    assert compare(monkeypatch, f"a={small}", f"b={large}", f"output={tmp_path}", "images=4") == 0
    assert not (tmp_path / "victim").exists()
    printed = capsys.readouterr().out
    a, b = (json.loads((f / "metrics.json").read_text())["metrics"]["ap50"] for f in (small, large))
    (line,) = [x for x in printed.splitlines() if " ap50 " in x]
    assert f"{a:.4f}" in line
    assert f"{b - a:+.4f}" in line
    differing = printed[printed.index("setting that differs") :]
    assert "backbone.alpha" in differing
    assert "seed" not in differing
    assert Image.open(tmp_path / "pair.png").size == (6 * 306 + 6, 2 * 306 + 6)
    content = torch.load(small / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"]["data"]["batch_size"] = 2  # which does not limit the number of pictures
    torch.save(content, tmp_path / "few.ckpt")
    more = (f"b={large}", f"output={tmp_path / 'few'}", "images=4")
    assert compare(monkeypatch, f"a={tmp_path / 'few.ckpt'}", *more) == 0
    assert Image.open(tmp_path / "few" / "pair.png").size == (6 * 306 + 6, 2 * 306 + 6)
    assert compare(monkeypatch, f"a={small}", f"b={trained / 'dogs' / 'dogs'}") == 2
    assert "a is a run of task=detection and b of task=dogs" in capsys.readouterr().err
    assert compare(monkeypatch, f"a={small}", f"b={tmp_path}") == 2
    assert "there is no checkpoint" in capsys.readouterr().err
