"""Sweeps with Hydra's launchers, and runs whose processes others start: run folders, trade-off, metrics, restarts."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from backbones.errors import UserError
from tasks.compare.runs import read_run
from tasks.compare.tradeoff import tradeoff
from tasks.engine.config import load_config, saved_groups
from tasks.engine.multitask_config import compose_config, tasks_of
from tasks.engine.train import new_folder, prepare
from tasks.engine.untrusted import resumed_config, to_resume
from tests.conftest import ROOT, command, kill_ray_worker, start_run, wait_until
from tests.tasks.engine.test_run import bad_input

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="needs pip install '.[slurm]'"
)
LOCAL = "hydra/launcher=submitit_local"
TWO = ("hydra.launcher.tasks_per_node=2", "trainer.devices=2")


def settings(dogs: Path, runs: Path, *more: str) -> list[str]:
    """Settings of a run on dogs that takes seconds."""
    short = ["experiment=smoke", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu"]
    tiny = ["task.resolution=64", "data.batch_size=8", "data.workers=0", "backbone.alpha=0.25", "logger.images=0"]
    return ["task=dogs", "data=dogs", f"data.root={dogs}", *short, *tiny, f"paths.runs={runs}", *more]


def results(runs: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((runs / "dogs").glob("*/metrics.json"))]


def test_a_sweep_by_submitit(dogs: Path, tmp_path: Path) -> None:
    """Its jobs run in parallel; the trade-off plot shows their runs, as without a launcher."""
    result = command("run", "-m", LOCAL, *settings(dogs, tmp_path, "backbone.alpha=0.25,0.3"))
    assert result.returncode == 0, result.stderr
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert str(sweep / "tradeoff.png") in result.stdout
    runs = results(tmp_path)
    assert [run["state"] for run in runs] == ["finished"] * 2
    names = [Path(str(run["folder"])).name for run in runs]
    assert names == [f"{sweep.name}-0-a0.25", f"{sweep.name}-1-a0.3"]
    folders = [Path(line) for line in (sweep / "runs.txt").read_text().splitlines()]
    assert sorted(map(str, folders)) == [run["folder"] for run in runs]
    tradeoff([read_run(folder, folder.parent) for folder in folders], tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes() == (sweep / "tradeoff.png").read_bytes()
    result = command("compare", f"runs={tmp_path}", f"output={tmp_path / 'compare'}")
    assert result.returncode == 0, result.stderr


def test_two_processes_of_a_launcher_measure_as_one(dogs: Path, tmp_path: Path) -> None:
    result = command("run", "-m", LOCAL, *settings(dogs, tmp_path, *TWO, "name=two"))
    assert result.returncode == 0, result.stderr
    (run,) = results(tmp_path)
    result = command("predict", f"ckpt={tmp_path / 'dogs' / 'two'}", "mode=test", f"root={dogs}")
    assert result.returncode == 0, result.stderr
    (line,) = [x for x in result.stdout.splitlines() if "top1 " in x]
    assert float(line.split("│")[2]) == pytest.approx(run["metrics"]["top1"], abs=1e-3)  # type: ignore[index]


def test_two_machines(dogs: Path, tmp_path: Path) -> None:
    """One torchrun each; the second does not print the run folder, and both write to it."""
    options = settings(dogs, tmp_path, "trainer.num_nodes=2", "name=nodes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--master-addr=127.0.0.1"]
    port = f"--master-port={20000 + os.getpid() % 20000}"
    nodes = [
        subprocess.Popen(
            [*torchrun, port, f"--node-rank={rank}", "-m", "tasks.run", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    output = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], output
    assert ["run folder" in stdout for stdout, _ in output] == [True, False]
    (run,) = results(tmp_path)
    assert run["state"] == "finished"
    last = torch.load(tmp_path / "dogs" / "nodes" / "checkpoints" / "last.ckpt", weights_only=True)
    across = [c["across"] for c in last["callbacks"].values() if isinstance(c, dict) and "across" in c]
    assert across == [16]  # images per step, over both


def test_a_job_that_submitit_stops_goes_on_when_it_is_submitted_again(dogs: Path, tmp_path: Path) -> None:
    more = ["trainer.max_epochs=400", "trainer.validate_every=400"]
    process = start_run("-m", LOCAL, *settings(dogs, tmp_path, *more))
    try:
        goes_on(tmp_path, process)
    finally:
        os.kill(job_of(tmp_path), signal.SIGTERM)
        process.communicate(timeout=120)


def goes_on(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: list(tmp_path.glob("dogs/*/checkpoints/last.ckpt")), process)
    (folder,) = (tmp_path / "dogs").iterdir()
    (log,) = tmp_path.glob("sweeps/*/.submitit/*/*_log.out")
    os.kill(job_of(tmp_path), signal.SIGUSR2)
    wait_until(lambda: log.read_text().count("Starting with JobEnvironment") == 2, process)
    assert "Requeued job" in log.with_suffix(".err").read_text() + log.read_text()
    assert "stopped by SIGUSR2" in log.with_suffix(".err").read_text()
    last = folder / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns
    wait_until(lambda: last.stat().st_mtime_ns > before, process)
    assert [path.name for path in (tmp_path / "dogs").iterdir()] == [folder.name]


def job_of(folder: Path) -> int:
    """The process of the one submitit job below a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"submitit.core._submit" in (words := (place / "cmdline").read_bytes()) and bytes(folder) in words:
                return int(place.name)
        except OSError:  # it ended meanwhile
            continue
    raise AssertionError(f"no job of {folder} runs")


def test_a_requeued_run_is_given_again_what_its_folder_is_not_trusted_with() -> None:
    given = ["task=dogs", "teacher=resnet50", "faces.distill.cache=/cache", "data.root=x", "data.web=/web", "seed=1"]
    again = ["resume=run", "teacher=resnet50", "faces.distill.cache=/cache", "data.web=/web"]
    assert to_resume(Path("run"), given, load_config(["task=dogs", "teacher=resnet50"])) == again


@pytest.mark.parametrize(
    "given",
    [
        ["experiment=coco_ssd"],
        ["task=dogs", "teacher=it's [odd]"],
        ["task=multitask", "multitask.tasks=[dogs,faces]", "backbone.pretrained=true", "teacher=resnet50"],
    ],
)
def test_a_run_that_was_killed_before_its_first_checkpoint_is_requeued(given: list[str], tmp_path: Path) -> None:
    """Also if an experiment sets what a run folder alone may not."""
    config, _ = compose_config(given)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    again = to_resume(tmp_path, given, config)
    found = resumed_config(tmp_path, compose_config([*saved_groups(str(tmp_path)), *again])[0], again)
    assert found["backbone"]["pretrained"] == config["backbone"]["pretrained"]
    for name, part in tasks_of(config).items():
        assert tasks_of(found)[name].get("teacher") == part.get("teacher")


@pytest.mark.parametrize("swept", ["task.dropout=0,0.5", "task.dropout=interval(0,0.5)"])
def test_two_jobs_of_one_name(dogs: Path, tmp_path: Path, swept: str) -> None:
    """Refused before the first trains: the second would be no restart of it."""
    result = command("run", "-m", *settings(dogs, tmp_path, "name=a", swept))
    bad_input(result, "name=a: several runs of this sweep would have it")
    assert results(tmp_path) == []


@pytest.mark.parametrize("launcher", [[], [LOCAL], ["trainer.devices=2"]])
def test_a_mistake_in_one_job_is_one_line(launcher: list[str], dogs: Path, tmp_path: Path) -> None:
    """The jobs after it are run; by another launcher, they are beside it."""
    alone = LOCAL in launcher
    result = command("run", "-m", *settings(dogs, tmp_path, *launcher, f"ckpt=absent{'' if alone else ',null'}"))
    assert result.returncode == 2, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    words = "it ended with status 2" if "trainer.devices=2" in launcher else "there is no checkpoint absent"
    assert told[-1] == f"error: a job of the sweep failed: {words}"
    assert launcher or told[0] == "error: there is no checkpoint absent"  # others' jobs print it elsewhere
    assert "Traceback" not in result.stderr
    assert [(run["state"], run["step"]) for run in results(tmp_path)] == ([] if alone else [("finished", 2)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([LOCAL], "hydra/launcher=submitit_local applies to a sweep only: add -m"),
        (["-m", "hydra/launcher=cloud"], "choose from basic, "),
        (["trainer.num_nodes=2"], "start it with torchrun on each node"),
        (["trainer.devices=0"], "choose from auto, [1, 1000000]"),
    ],
)
def test_processes_that_do_not_go_together(arguments: list[str], words: str, dogs: Path, tmp_path: Path) -> None:
    bad_input(command("run", *settings(dogs, tmp_path), *arguments), words)


@pytest.mark.parametrize(
    ("more", "words"),
    [(["name=a"], "2 processes were started"), (["trainer.devices=2"], "name=<name> is required")],
)
def test_torchrun_without_its_settings(
    more: list[str], words: str, dogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    bad_input(command("run", *settings(dogs, tmp_path), *more), words)
    assert results(tmp_path) == []


def test_only_a_run_that_makes_its_folder_needs_a_name(
    dogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage has the folder of its run, a resumed run its own."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # is this process's again afterwards
    for key, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    config = load_config(settings(dogs, tmp_path, "trainer.devices=2"))
    data, _ = prepare(config)
    assert data.num_images("train")
    with pytest.raises(UserError, match="name=<name> is required"):
        new_folder(config)


@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None, reason="needs '.[ray]'")
def test_a_sweep_on_ray_one_of_whose_workers_is_killed(dogs: Path, tmp_path: Path) -> None:
    """Its run is repeated."""
    more = ["task.dropout=0,0.5", "backbone.alpha=0.25,0.3", "trainer.max_epochs=3"]
    process = start_run(
        "-m",
        "hydra/launcher=ray",
        *settings(dogs, tmp_path, *more),
        environment=os.environ | {"OF_TEST": str(tmp_path)},
    )
    try:
        wait_until(lambda: list(tmp_path.glob("dogs/*/checkpoints/last.ckpt")), process)
        wait_until(lambda: kill_ray_worker(b"ray::_run_job", str(tmp_path)), process)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert [run["state"] for run in results(tmp_path)] == ["finished"] * 4
    assert len(list((tmp_path / "dogs").iterdir())) == 4
