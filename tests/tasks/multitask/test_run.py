"""Runs of several tasks end to end: train, resume, predict, export, compare, add a task."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from backbones.errors import UserError
from data.dogs import DogsData
from tasks import load
from tasks.compare.runs import read_runs
from tasks.engine.checkpoint import load_checkpoint, part_checkpoint
from tasks.engine.multitask_config import compose_config
from tasks.engine.signals import STOP, Stopped
from tasks.engine.start import build_data
from tasks.engine.task import restore
from tasks.engine.train import prepare
from tasks.export.__main__ import execute as export
from tasks.multitask.task import JointTask
from tasks.run import execute
from tests.conftest import command, spawn
from tests.tasks.multitask.conftest import SMALL, TASKS, given


def last(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG, which is always decoded at full size."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).resize((480, 360)).save(path)
    return path


def test_a_run_folder(run: Path) -> None:
    content = json.loads((run / "metrics.json").read_text())
    assert (content["state"], content["epoch"], content["step"], content["primary"]) == ("finished", 2, 6, "mean")
    metrics = content["metrics"]
    own = [metrics["detection/ap"], metrics["dogs/top1"], metrics["faces/map"]]
    assert metrics["mean"] == pytest.approx(np.mean(own))
    assert [facts["primary"] for facts in content["parts"].values()] == ["ap", "top1", "map"]
    assert all((run / task / "predictions.png").exists() for task in TASKS)
    assert (run / "dogs" / "confusion.png").exists()
    assert all((run / "checkpoints" / f"best-{task}.ckpt").exists() for task in TASKS)


def test_each_task_stands_among_its_own_runs(run: Path) -> None:
    found = {r.task: r for r in read_runs(run.parent.parent) if r.folder.is_relative_to(run)}
    assert found.keys() == {"multitask", *TASKS}
    assert found["dogs"].group == ("dogs", "dogs")
    assert found["dogs"].primary == found["multitask"].metrics["dogs/top1"]
    assert found["dogs"].finished
    assert found["multitask"].data == "demo_scenes+dogs+demo_faces"
    assert found["detection"].params_m is not None
    assert found["multitask"].params_m is not None
    assert found["detection"].params_m < found["multitask"].params_m < 2 * found["detection"].params_m


def test_shared_weights_are_stored_once(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    name = "model.backbone.blocks.1.1.conv.weight"
    places = {state[f"parts.{task}.{name}"].data_ptr() for task in TASKS}
    assert len(places) == 1


@pytest.mark.usefixtures("stoppable")
def test_a_run_that_is_stopped_within_epochs_equals_an_undisturbed_one(
    patched: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, list[str]], tmp_path: Path
) -> None:
    """In the first step, in the middle and in the last step of an epoch, to the last bit."""
    stops, plain = {0, 1, 2}, JointTask.training_step

    def step(self: JointTask, batch: Any, index: int) -> Any:
        if self.global_step in stops:
            stops.remove(self.global_step)
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, index)

    monkeypatch.setattr(JointTask, "training_step", step)
    arguments = [*given(sets, "dogs", "faces"), f"paths.runs={tmp_path}", "name=b", "multitask.share=norm"]
    arguments += ["multitask.balance=uncertainty", "multitask.temperature=0.5"]
    for _ in range(3):
        with pytest.raises(Stopped):
            execute(arguments)
        STOP.number = None
        arguments = [f"resume={tmp_path / 'multitask' / 'b'}"]
    execute(arguments)
    assert not stops
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(last(tmp_path / "multitask" / "b")[part], last(patched)[part], rtol=0, atol=0)


def test_resume_with_other_settings(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "longer")
    with pytest.raises(UserError, match=r"dogs.task.dropout=0.1 cannot change when resuming"):
        execute([f"resume={tmp_path / 'longer'}", "dogs.task.dropout=0.1"])
    content = execute([f"resume={tmp_path / 'longer'}", "trainer.max_epochs=3", "dogs.data.batch_size=4"])
    assert (content["epoch"], content["step"]) == (3, 9)
    assert content["settings"]["parts"]["dogs"]["data"]["batch_size"] == 4
    assert content["settings"]["parts"]["dogs"]["trainer"]["max_epochs"] == 3


def test_all_tasks_answer_for_an_image(run: Path, photo: Path, tmp_path: Path) -> None:
    result = command("predict", f"ckpt={run}", f"input={photo}", f"output={tmp_path}")
    assert result.returncode == 0, result.stderr
    line = json.loads((tmp_path / "predictions.jsonl").read_text())
    assert list(line)[2:] == TASKS
    assert Image.open(line["annotated"]).height >= 360
    (answer,) = load(run).predict(photo)
    assert answer.to_dict() == {task: line[task] for task in TASKS}
    dogs: Any = answer.parts["dogs"]
    assert dogs.labels == [row["label"] for row in line["dogs"]["classes"]]
    (some,) = load(run, only=["faces"]).predict(photo)
    assert some.to_dict() == {"faces": line["faces"]}
    with pytest.raises(UserError, match="the run has no task 'geo'; its tasks are detection, dogs, faces"):
        load(run, only=["geo"])


def test_test_mode_measures_every_task(patched: Path) -> None:
    result = command("predict", f"ckpt={patched}", "mode=test")
    assert result.returncode == 0, result.stderr
    assert {"mean", "dogs/top1", "faces/map"} <= {w for line in result.stdout.splitlines() for w in line.split()}


def test_a_teacher_of_a_task_is_asked_only_where_it_is_named(
    sets: dict[str, list[str]], faces: Path, tmp_path: Path
) -> None:
    """The checkpoint's own teacher is never opened: its file does not exist."""
    own = ["data=face_folder", f"data.root={faces / 'people'}", "data.val=0.5", f"teacher={tmp_path / 'none.csv'}"]
    own.append(f"distill.cache={tmp_path / 'cache'}")
    settings = [*(f"dogs.{setting}" for setting in sets["dogs"]), *(f"faces.{setting}" for setting in own)]
    config, _ = compose_config([*SMALL, "multitask.tasks=[dogs,faces]", *settings])
    breeds = build_data(config["parts"]["dogs"]).labels
    module = JointTask(config, [*(f"dogs/{breed}" for breed in breeds), "faces/a", "faces/b"])
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "x.ckpt")
    result = command("predict", f"ckpt={tmp_path / 'x.ckpt'}", "mode=test")
    assert "error: faces: this needs the run's teacher, which is used only if you name it: teacher=" in result.stderr
    photos = sorted((faces / "people").rglob("*.jpg"))
    rows = [f"{photo.parent.name}/{photo.name},{i % 2},{i % 3 / 2}" for i, photo in enumerate(photos)]
    (tmp_path / "mine.csv").write_text("\n".join(["file,a,b", *rows]))
    result = command("predict", f"ckpt={tmp_path / 'x.ckpt'}", "mode=test", f"teacher={tmp_path / 'mine.csv'}")
    assert result.returncode == 0, result.stderr
    assert {"mean", "dogs/top1", "faces/map"} <= {*result.stdout.split()}
    restored = restore(load_checkpoint(tmp_path / "x.ckpt"), "mine.csv")
    assert isinstance(restored, JointTask)
    part = dict(restored.each())["faces"]
    assert (part.asks_teacher, part.config["teacher"], part.config["distill"]["cache"]) == (True, "mine.csv", None)


@pytest.mark.parametrize("task", TASKS)
def test_a_part_is_the_checkpoint_of_a_single_run(run: Path, task: str, photo: Path, tmp_path: Path) -> None:
    """It predicts as the run does, and another run starts from it."""
    folder = export([f"ckpt={run}", f"part={task}", "format=torch", f"output={tmp_path}", "max_drop=100"])
    assert load_checkpoint(folder)["suite"]["task"] == task
    (alone,), (joint,) = load(folder).predict(photo), load(run).predict(photo)
    assert alone.to_dict() == joint.to_dict()[task]


def test_a_part_goes_on_as_a_run_of_its_own(
    run: Path, sets: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export([f"ckpt={run}", "part=faces", "format=torch", f"output={tmp_path}", "max_drop=100"])
    small = [o for o in given(sets, "faces") if not o.startswith(("task=", "multitask.", "faces."))]
    content = execute(["task=faces", *small, *sets["faces"], f"ckpt={folder}", f"paths.runs={tmp_path}"])
    assert content["state"] == "finished"
    assert "keep their initial values" not in capsys.readouterr().err


def test_which_part_is_exported_must_be_said(patched: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="set part= to all or to one of dogs, faces"):
        export([f"ckpt={patched}", "format=onnx"])
    with pytest.raises(UserError, match="no task 'geo'"):
        export([f"ckpt={patched}", "part=geo", "format=onnx"])


def test_one_file_of_all_tasks_in_int8(run: Path, photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    given = [f"ckpt={run}", "part=all", "format=litert", "quantize=int8", "calibration=12", "max_drop=100"]
    folder = export([*given, f"output={tmp_path}"])
    spec = json.loads((folder / "model.json").read_text())
    assert spec["cost"]["megabytes"] < 2 * spec["cost"]["params_m"]
    (answer,) = load(folder).predict(photo)
    assert list(answer.to_dict()) == TASKS


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_one_file_of_all_tasks(form: str, run: Path, dogs: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    """It answers as the checkpoint does, holds the backbone once, and has a card of all tasks."""
    pytest.importorskip({"onnx": "onnxruntime", "litert": "litert_torch"}[form])
    folder = export([f"ckpt={run}", "part=all", f"format={form}", f"output={tmp_path}", "max_drop=100"])
    spec = json.loads((folder / "model.json").read_text())
    assert list(spec["parts"]) == TASKS
    assert all(output["meaning"] for output in spec["outputs"])
    assert ["note" in part and bool(part["note"]) for part in spec["parts"].values()] == [False, True, False]
    assert "note: dogs: " in capsys.readouterr().out
    assert spec["latency"]["median_ms"] > 0
    found: Any = ModelCard.load(folder / "README.md")
    assert {result.metric_type for result in found.data.eval_results} > {"ap", "top1", "map"}
    assert all(f"## `{task}`" in found.text for task in TASKS)
    differences = spec["differences"]
    assert max(differences["dogs.probabilities"], differences["faces.probabilities"]) < 1e-3
    # compared by rank: of two boxes that NMS takes for duplicates, either may stay
    assert differences["detection.scores"] < 0.1
    assert spec["cost"]["params_m"] == pytest.approx(spec["cost"]["megabytes"] / 4, rel=0.2)
    assert spec["input"]["center_crop"] is None  # the tasks' differ, and so the metrics are of whole images
    assert spec["parts"]["dogs"]["note"] in found.text
    assert str(dogs.parent) not in json.dumps(spec)
    samples = DogsData(str(dogs), 64).samples("test")
    right = [
        answer.to_dict()["dogs"]["classes"][0]["label"] == spec["parts"]["dogs"]["labels"][sample.label]
        for sample, answer in zip(samples, load(folder).predict([s.path for s in samples]), strict=True)
    ]
    assert spec["parts"]["dogs"]["metrics"]["after"]["top1"] == pytest.approx(np.mean(right))
    (answer,) = load(folder).predict(photo)
    assert list(answer.to_dict()) == TASKS
    assert answer.draw().width >= 480
    (none,) = load(folder, threshold=0.99).predict(photo)
    keys = ("detections", "classes", "attributes")
    assert [none.to_dict()[task][key] for task, key in zip(TASKS, keys, strict=True)] == [[], [], []]
    result = subprocess.run(
        [sys.executable, folder / "example.py", photo], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert list(json.loads(result.stdout.partition(" ")[2])) == TASKS


def test_weights_of_all_tasks(patched: Path, sets: dict[str, list[str]], photo: Path, tmp_path: Path) -> None:
    """One safetensors file has shared tensors once, answers as the run does, and can start another run."""
    folder = export([f"ckpt={patched}", "part=all", "format=torch", f"output={tmp_path}"])
    spec = json.loads((folder / "model.json").read_text())
    assert set(spec["differences"].values()) == {0.0}
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    kernel, scale = "model.backbone.blocks.1.1.conv.weight", "model.backbone.blocks.1.1.norm.weight"
    assert len({f"parts.dogs.{kernel}", f"parts.faces.{kernel}"} & names) == 1
    assert {f"parts.dogs.{scale}", f"parts.faces.{scale}"} <= names
    assert spec["cost"]["megabytes"] == pytest.approx(4 * spec["cost"]["params_m"], rel=0.15)
    answers = [next(load(path).predict(photo)).to_dict() for path in (patched, folder)]
    assert answers[0] == answers[1]
    assert "`dogs`" in (folder / "README.md").read_text()
    _, module = prepare(compose_config([*given(sets, "dogs", "faces"), "multitask.share=norm", f"ckpt={folder}"])[0])
    torch.testing.assert_close(dict(module.state_dict()), dict(load_checkpoint(patched)["state_dict"]), rtol=0, atol=0)
    part = export([f"ckpt={folder}", "part=faces", "format=torch", f"output={tmp_path}"])
    assert json.loads((part / "model.json").read_text())["differences"] == {"probabilities": 0.0}


def test_a_header_that_names_tensors_that_are_not_there(patched: Path, tmp_path: Path) -> None:
    folder = export([f"ckpt={patched}", "part=all", "format=torch", f"output={tmp_path}"])
    with safe_open(folder / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        header = file.metadata()
    for same in ('{"a": "b"}', '["a"]', '{"a": ["b"]}'):
        save_file(state, folder / "model.safetensors", header | {"same": same})
        with pytest.raises(UserError, match="is damaged: its header names tensors that it does not hold"):
            load(folder)


def test_a_file_of_each_task(patched: Path, run: Path, tmp_path: Path) -> None:
    """Tasks with layers of their own have files of their own, which record that they share a backbone."""
    pytest.importorskip("onnxruntime")
    folder = export([f"ckpt={patched}", "part=all", "format=onnx", f"output={tmp_path}", "max_drop=100"])
    specs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/model.json"))]
    assert [spec["task"] for spec in specs] == ["dogs", "faces"]
    assert max(value for spec in specs for value in spec["differences"].values()) < 1e-3
    shared = [spec["provenance"]["shared_sha256"] for spec in specs]
    assert shared[0] == shared[1]
    other = export([f"ckpt={run}", "part=faces", "format=onnx", f"output={tmp_path / 'other'}", "max_drop=100"])
    assert json.loads((other / "model.json").read_text())["provenance"]["shared_sha256"] != shared[0]


def test_a_teacher_is_given_to_the_tasks_that_learn_from_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for tasks with a file each: detection learns from no teacher, and would refuse it."""
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"]["multitask"]["share"] = "norm"
    torch.save(content, tmp_path / "norm.ckpt")
    asked: dict[str, str | None] = {}

    def note(config: dict[str, Any]) -> Path:
        asked[config["part"]] = config["teacher"]
        return tmp_path / config["part"]

    monkeypatch.setattr("tasks.export.together.export", note)
    assert export([f"ckpt={tmp_path / 'norm.ckpt'}", "part=all", "format=onnx", "teacher=mine.csv"]) == tmp_path
    assert asked == {"detection": None, "dogs": "mine.csv", "faces": "mine.csv"}


def test_what_one_file_cannot_hold(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantize=int8_qat trains one task: export each with part=<task>"):
        export([f"ckpt={run}", "part=all", "format=onnx", "quantize=int8_qat"])
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["config"]["parts"]["faces"]["task"]["resolution"] = 96
    torch.save(content, tmp_path / "sides.ckpt")
    with pytest.raises(UserError, match=r"part=all needs the same input size.*, not detection 64 px, .* faces 96 px"):
        export([f"ckpt={tmp_path / 'sides.ckpt'}", "part=all", "format=onnx"])


@pytest.mark.parametrize("share", ["all", "norm", "depthwise"])
def test_an_added_task_leaves_the_others_as_they_are(
    share: str, run: Path, patched: Path, sets: dict[str, list[str]], tmp_path: Path
) -> None:
    base = patched if share == "norm" else run
    own = [f"embedding.{setting}" for setting in sets["embedding"]]
    small = [o for o in given(sets) if not o.startswith(("backbone.", "multitask.tasks"))]
    patch = ["multitask.share=depthwise"] if share == "depthwise" else []
    more = ["multitask.add=embedding", f"ckpt={base}", f"paths.runs={tmp_path}", "name=more", "trainer.max_epochs=1"]
    content = execute([*small, *own, *more, *patch])
    before, after = load_checkpoint(base), load_checkpoint(tmp_path / "multitask" / "more")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    others = list(before["suite"]["config"]["parts"])
    for name in others:
        one, other = (restore(part_checkpoint(c, name)).named_outputs(images) for c in (before, after))
        for key, tensor in one.items():
            torch.testing.assert_close(other[key], tensor, rtol=0, atol=0)
        kept = {k: v for k, v in before["suite"]["metrics"].items() if k.startswith(f"{name}/")}
        assert kept.items() <= content["metrics"].items()
    module, again = restore(after), dict[str, Any]()
    assert isinstance(module, JointTask)
    module.trained = ["embedding"]  # as in a resumed run, before its first validation
    module.on_load_checkpoint(after)
    module.on_save_checkpoint(again)
    assert kept.items() <= again["suite"]["metrics"].items()
    assert list(content["parts"]) == [*others, "embedding"]
    assert content["parts"]["embedding"]["own_params_m"] > 0.005  # its own normalization, at least
    moved = "model.backbone.blocks.1.0.norm.weight"
    kept = before["state_dict"][f"parts.{others[0]}.{moved}"]
    assert not torch.equal(after["state_dict"][f"parts.embedding.{moved}"], kept)
    with pytest.raises(UserError, match="already has this task"):
        execute([*small, "multitask.add=dogs", f"ckpt={base}"])
    if share != "depthwise":
        return
    result = command("predict", f"ckpt={tmp_path / 'multitask' / 'more'}", "mode=test")
    assert result.returncode == 0, result.stderr
    rows = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    tested = {row[1].strip(): float(row[2]) for row in rows}
    assert {"mean", "dogs/top1", "faces/map", "embedding/tar_far1e-2"} <= tested.keys()
    assert np.isfinite(tested["mean"])


def test_a_loss_that_is_not_finite_is_named(sets: dict[str, list[str]], tmp_path: Path) -> None:
    options = [*given(sets, "dogs", "faces"), "multitask.weights=[1,1e39]", f"paths.runs={tmp_path}"]
    with pytest.raises(UserError, match="the loss of faces is not finite by step"):
        execute(options)


def test_too_many_unreadable_images_of_one_task(sets: dict[str, list[str]], dogs: Path, tmp_path: Path) -> None:
    shutil.copytree(dogs, tmp_path / "dogs")
    for path in sorted((tmp_path / "dogs" / "Images").rglob("*.jpg"))[::2]:
        path.write_bytes(b"")
    options = [*given(sets, "dogs", "faces"), f"dogs.data.root={tmp_path / 'dogs'}", f"paths.runs={tmp_path}"]
    with pytest.raises(UserError, match=r"dogs: \d+ of \d+ train images cannot be read"):
        execute(options)


def test_two_processes_with_loaders_come_to_an_end(sets: dict[str, list[str]], tmp_path: Path) -> None:
    options = [*given(sets, "dogs", "faces"), "data.workers=1", "trainer.devices=2", "trainer.accelerator=cpu"]
    result = spawn("run", *options, "trainer.max_epochs=1", "task.resolution=32", f"paths.runs={tmp_path}", "name=a")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "multitask" / "a" / "metrics.json").read_text())["metrics"]
    assert 0 < metrics["faces/map"] <= 1


def test_a_sweep_with_settings_of_a_task(sets: dict[str, list[str]], tmp_path: Path) -> None:
    options = [*given(sets, "dogs", "faces"), "trainer.max_epochs=1", "task.resolution=32", "logger.images=0"]
    result = command("run", "-m", *options, "dogs.task.dropout=0,0.5", f"paths.runs={tmp_path}")
    assert result.returncode == 0, result.stderr
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("multitask/*/metrics.json"))]
    assert sorted(run["settings"]["parts"]["dogs"]["task"]["dropout"] for run in runs) == [0, 0.5]


@pytest.mark.parametrize("hold", [0.0, 1.0])
def test_statistics_that_tasks_share_are_held(hold: float, sets: dict[str, list[str]], tmp_path: Path) -> None:
    """Held from the beginning, they are still those of a new layer; or they are never held."""
    options = [*given(sets, "dogs", "faces"), f"multitask.hold_statistics={hold}", "trainer.max_epochs=1"]
    options += ["task.resolution=32", "logger.images=0", "trainer.ema_decay=0", f"paths.runs={tmp_path}", "name=a"]
    execute(options)
    mean = last(tmp_path / "multitask" / "a")["state_dict"]["parts.dogs.model.backbone.blocks.0.norm.running_mean"]
    assert bool(mean.any()) == (hold == 1)
