"""What an untrusted checkpoint, run folder or export can do: only be refused in one line, or work as a model."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from backbones.weights import build_mobilenet_v1
from tasks import predict
from tasks.classification.model import Classifier
from tasks.compare.pair import compare_pair
from tasks.distill.load import load_teacher, teacher_labels
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config, run_config, saved_groups
from tasks.engine.options import locate
from tasks.engine.task import restore
from tasks.engine.training_checkpoints import AtomicCheckpointIO
from tasks.engine.untrusted import read_plan
from tasks.export.__main__ import execute as export
from tasks.gallery.__main__ import run as gallery
from tasks.run import execute

Content = dict[str, Any]
SMALL = ("backbone.alpha=0.25", "task.resolution=32")


@pytest.fixture(scope="module")
def content() -> Content:
    """A checkpoint of an untrained detector of two classes."""
    return written("detector=pan")


def written(*overrides: str, labels: tuple[str, ...] = ("a", "b")) -> Content:
    config = load_config([*SMALL, *overrides])
    module = locate(config, "task")(config, labels)
    found: Content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(found)
    return found


def save(content: Content, path: Path) -> Path:
    if path.suffix == ".safetensors":
        state = {name: tensor.contiguous() for name, tensor in content["state_dict"].items()}
        save_file(state, path, {"suite": json.dumps(content["suite"]), "input": "uint8_nhwc"})
    else:
        torch.save(content, path)
    return path


def with_change(content: Content, change: Callable[[Content], Any]) -> Content:
    found = {"state_dict": dict(content["state_dict"]), "suite": copy.deepcopy(content["suite"])}
    change(found["suite"])
    return found


def one_line(error: UserError) -> None:
    words = str(error)
    assert "\n" not in words
    assert "weights_only" not in words
    assert len(words) < 1000


# Each of these ran code or emptied a file when a checkpoint's targets were called unchecked.
CALLS_CODE = {"_target_": "tasks.run.hydra.utils.instantiate", "x": {"_target_": "sympy.sympify", "a": "1"}}
EMPTIES_A_FILE = {"_target_": "data.base.logging.basicConfig", "filename": "victim", "filemode": "w", "force": True}


@pytest.mark.parametrize("evil", [CALLS_CODE, EMPTIES_A_FILE], ids=["calls_code", "empties_a_file"])
@pytest.mark.parametrize("group", ["task", "backbone", "detector", "data"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_no_file_names_code(
    content: Content, evil: Content, group: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command that opens a checkpoint."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.chdir(tmp_path)
    bad = with_change(content, lambda suite: suite["config"][group].update(evil))
    file = save(bad, Path(f"evil{suffix}"))  # the same for all cases, so that settings are composed once
    Path("run").mkdir()
    Path("run/config.yaml").write_text(yaml.safe_dump(bad["suite"]["config"]))
    Path("a.jpg").write_bytes(b"")
    calls: list[Callable[[], Any]] = [
        lambda: predict.predict(load_config([f"ckpt={file}", "input=a.jpg"], "predict")),
        lambda: predict.test(load_config([f"ckpt={file}", "mode=test"], "predict")),
        lambda: export([f"ckpt={file}", "format=torch"]),
        lambda: gallery(load_config([f"ckpt={file}"], "gallery")),
        lambda: compare_pair(load_config([f"a={file}", f"b={file}"], "compare")),
        lambda: execute(["resume=run"]),
        lambda: teacher_labels(str(file)),
        lambda: load_teacher(str(file), ["a", "b"], Classifier(MobileNetV1(0.25), 2), 32),
    ]
    for call in calls:
        with pytest.raises(UserError) as error:
            call()
        one_line(error.value)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["tasks.run.hydra.utils.instantiate", "data.base.logging", "os.system"])
def test_a_target_is_a_modules_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engine.options.target", lambda groups, group: name)
    with pytest.raises((UserError, ImportError)):
        locate(load_config([]), "task")


def mutations() -> Iterator[tuple[str, Callable[[Content], Any]]]:
    """Ways to break a checkpoint's `suite` entry, by name."""
    yield "a newer version", lambda s: s.update(version=3)
    yield "an older version", lambda s: s.update(version=1)
    yield "a version in words", lambda s: s.update(version="2")
    yield "no config", lambda s: s.pop("config")
    yield "a list for config", lambda s: s.update(config=[1])
    yield "no groups", lambda s: s["config"].pop("groups")
    yield "a hidden option", lambda s: s["config"]["groups"].update(data="_detection")
    yield "an option elsewhere", lambda s: s["config"]["groups"].update(data="../task/geo")
    yield "an unhashable option", lambda s: s["config"]["groups"].update(data=["scenes"])
    yield "an experiment", lambda s: s["config"]["groups"].update(experiment="coco_ssd")
    yield "another task", lambda s: s["config"]["groups"].update(task="dogs")
    yield "an unknown setting", lambda s: s["config"]["trainer"].update(colour="red")
    yield "a value out of range", lambda s: s["config"]["backbone"].update(alpha=1e9)
    yield "a group that is none", lambda s: s["config"].update(backbone=3)
    yield "a name for the task", lambda s: s["config"]["task"].update(name="../../x")
    yield "nested values", lambda s: s["config"].update(name={"a": {"b": 1}})
    yield "labels that are none", lambda s: s.update(labels=[["a"]])
    yield "labels in a dict", lambda s: s.update(labels={"a": 1})
    yield "more labels", lambda s: s.update(labels=["a"] * 7)
    yield "metrics in words", lambda s: s.update(metrics={"ap": "high"})
    yield "metrics longer than a float", lambda s: s.update(metrics={"ap": 10**400})
    yield "no backbone", lambda s: s.pop("backbone")
    yield "no normalization", lambda s: s["backbone"].pop("normalization")
    yield "a deviation of zero", lambda s: s["backbone"].update(normalization=[[0.5] * 3, [0.0] * 3])
    yield "a mean of nan", lambda s: s["backbone"].update(normalization=[[float("nan")] * 3, [1.0] * 3])
    yield "unknown padding", lambda s: s["backbone"].update(padding="zero")
    yield "settled on what is no setting", lambda s: s["backbone"].update(strides=[1])


@pytest.mark.parametrize(("_", "change"), list(mutations()), ids=[name for name, _ in mutations()])
def test_a_damaged_suite_is_refused(content: Content, _: str, change: Callable[[Content], Any], tmp_path: Path) -> None:
    for suffix in (".ckpt", ".safetensors"):
        with pytest.raises(UserError) as error:
            restore(load_checkpoint(save(with_change(content, change), tmp_path / f"x{suffix}")))
        one_line(error.value)


@pytest.mark.parametrize("suite", [5, {}, [], None, "x", {"version": 2}, {"version": 2, "task": "detection"}])
def test_a_suite_of_another_kind(suite: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "suite": suite}, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "x.ckpt")
    one_line(error.value)


class Touch:
    """Writes a file if it is unpickled without restrictions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "pwned")


def test_a_table_of_a_teacher_runs_no_code(tmp_path: Path) -> None:
    odd = np.empty(1, object)
    odd[0] = Touch(tmp_path / "pwned")
    np.savez(tmp_path / "t.npz", files=["a.jpg"], outputs=odd)
    with pytest.raises(UserError, match="cannot be read as a table") as error:
        load_teacher(str(tmp_path / "t.npz"), ["a", "b"], Classifier(MobileNetV1(0.25), 2), 32)
    one_line(error.value)
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_is_no_checkpoint_gets_our_line(content: Content, tmp_path: Path) -> None:
    """Whatever it holds, and never torch's advice to trust it."""
    whole = save(content, tmp_path / "good.ckpt").read_bytes()
    files = {"text.ckpt": b"hello", "empty.ckpt": b"", "torn.ckpt": whole[:3000], "text.safetensors": b"hello"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save(Touch(tmp_path / "pwned"), tmp_path / "pickle.ckpt")
    for name in (*files, "pickle.ckpt"):
        for call in (load_checkpoint, lambda path: build_mobilenet_v1(weights=str(path))):
            with pytest.raises(UserError, match="cannot be read") as error:
                call(tmp_path / name)
            one_line(error.value)
    assert not (tmp_path / "pwned").exists()


def test_weights_that_claim_more_than_the_file_has(content: Content, tmp_path: Path) -> None:
    huge = content | {"state_dict": {"model.x": torch.zeros(1).expand(1 << 40)}}
    with pytest.raises(UserError, match="not named tensors"):
        load_checkpoint(save(huge, tmp_path / "huge.ckpt"))
    sparse = content | {"state_dict": {"model.x": torch.eye(3).to_sparse()}}
    with pytest.raises(UserError, match="not named tensors"):
        load_checkpoint(save(sparse, tmp_path / "sparse.ckpt"))


def test_fifty_damaged_checkpoints(content: Content, tmp_path: Path) -> None:
    """Bytes changed, cut and moved, and values of the suite replaced, by seed: a model, or one line."""
    rng = random.Random(0)
    whole = save(content, tmp_path / "good.ckpt").read_bytes()
    odd: tuple[Any, ...] = (
        None,
        -1,
        1e308,
        float("nan"),
        "",
        "../x",
        [],
        {},
        [[]],
        {"a": {}},
        True,
        "${oc.env:HOME}",
        10**30,
    )
    for i in range(50):
        file = tmp_path / f"{i}.ckpt"
        if i % 2:
            data = bytearray(whole)
            for _ in range(rng.choice((1, 20, 500))):
                data[rng.randrange(len(data) // rng.choice((1, 100)))] = rng.randrange(256)
            file.write_bytes(data[: rng.randrange(len(data))] if i % 3 == 0 else data)
        else:
            save(with_change(content, lambda suite: replace(suite, rng, odd)), file)
        try:
            restore(load_checkpoint(file))
        except UserError as error:
            one_line(error)


def replace(node: Any, rng: random.Random, odd: tuple[Any, ...]) -> None:
    """Puts an odd value somewhere in nested dicts and lists."""
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(odd))
            return


def test_fifty_damaged_run_folders(content: Content, tmp_path: Path) -> None:
    rng = random.Random(1)
    config = yaml.safe_dump(content["suite"]["config"])
    plan = yaml.safe_dump({"stages": {"a": ["seed=1"], "b": ["trainer.max_epochs=2"]}, "overrides": ["task=dogs"]})
    odd = ("\x00", "\t", "{", "[", "&a ", "*a", "!!python/object/apply:os.system [x]", "- ", ": ", "\ud800", "9" * 5000)
    for i in range(50):
        name, text = ("config.yaml", config) if i % 2 else ("stages.yaml", plan)
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(odd) + text[at + rng.randrange(4) :]
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            run_config(tmp_path) if i % 2 else read_plan(tmp_path / name, [])
        except UserError as error:
            one_line(error)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "a: 1",
        "groups: 5",
        "groups: {}",
        "groups: {task: detection}",
        BOMB,
        "[" * 100_000,
        "x" * (1 << 21),
        f"seed: 0x{'f' * 6000}",
    ],
    ids=["empty", "list", "number", "other", "groups", "no_groups", "one_group", "bomb", "deep", "large", "huge"],
)
def test_a_config_yaml_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for call in (saved_groups, lambda folder: execute([f"resume={folder}"])):
        with pytest.raises(UserError) as error:
            call(str(tmp_path))
        one_line(error.value)


def test_nothing_that_a_file_says_is_interpolated(content: Content, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    bad = with_change(content, lambda suite: suite["config"].update(name="${oc.env:SECRET}"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(bad["suite"]["config"]))
    assert run_config(tmp_path)["name"] == "${oc.env:SECRET}"
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({"stages": {"a": []}, "overrides": ["name=${oc.env:SECRET}"]}))
    with pytest.raises(UserError, match="is not a plain setting"):
        read_plan(tmp_path / "stages.yaml", [])


def test_settings_that_a_file_lacks_are_todays(content: Content, tmp_path: Path) -> None:
    """So that files of this version stay readable when settings are added."""
    old = with_change(content, lambda suite: [suite["config"]["trainer"].clear(), suite["config"].pop("logger")])
    config = load_checkpoint(save(old, tmp_path / "old.ckpt"))["suite"]["config"]
    assert config["trainer"]["warmup_fraction"] == 0.05
    assert config["logger"]["images"] == 8


def test_measuring_draws_nothing(content: Content, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A demo's root that a checkpoint names stays as it is, and a printed line names it."""
    root = tmp_path / "victim"
    bad = with_change(content, lambda suite: suite["config"]["data"].update(root=str(root)))
    file = save(bad, tmp_path / "x.ckpt")
    calls: list[Callable[[], Any]] = [
        lambda: predict.test(load_config([f"ckpt={file}", "mode=test"], "predict")),
        lambda: export([f"ckpt={file}", "format=torch", f"output={tmp_path / 'e'}"]),
        lambda: compare_pair(load_config([f"a={file}", f"b={file}", f"output={tmp_path / 'p'}"], "compare")),
    ]
    for absent in (True, False):
        if not absent:
            root.mkdir()
        for call in calls:
            with pytest.raises(UserError):
                call()
        assert list(root.iterdir() if root.exists() else ()) == []
    assert f"readingdata.root={root}" in "".join(capsys.readouterr().err.split())  # rich wraps it


def test_resuming_asks_for_nothing_that_the_folder_alone_names(tmp_path: Path, dogs: Path) -> None:
    """A teacher, a cache, weights and downloads must be named again, or are not used; a demo is not drawn."""
    run = tmp_path / "run"
    run.mkdir()
    root = tmp_path / "victim"
    config = load_config(["task=dogs", *SMALL, f"data.root={root}"])
    evil: dict[str, Callable[[], Any]] = {
        "teacher=hf-hub:x": lambda: config.update(teacher="hf-hub:x"),
        f"distill.cache={tmp_path / 'c'}": lambda: config["distill"].update(cache=str(tmp_path / "c")),
        "'teacher=x; rm -rf ~'": lambda: config.update(teacher="x; rm -rf ~"),
        "ckpt=/etc/passwd": lambda: config.update(ckpt="/etc/passwd"),
        "backbone.weights=/etc/passwd": lambda: config["backbone"].update(weights="/etc/passwd"),
        "backbone.pretrained=True": lambda: config["backbone"].update(pretrained=True),
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"there is no folder {root}"):
        execute([f"resume={run}"])
    assert not root.exists()
    clean = copy.deepcopy(config)
    for words, change in evil.items():
        change()
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(UserError, match="used only if you confirm") as error:
            execute([f"resume={run}"])
        assert words in str(error.value)
        config.clear()
        config.update(copy.deepcopy(clean))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_teacher_is_asked_only_where_it_is_named(tmp_path: Path) -> None:
    distilled = written("task=faces", "teacher=/etc/passwd", "distill.cache=/tmp")
    file = save(distilled, tmp_path / "x.ckpt")
    module = restore(load_checkpoint(file))
    assert not module.asks_teacher
    module = restore(load_checkpoint(file), "mine.onnx")
    assert (module.config["teacher"], module.config["distill"]["cache"]) == ("mine.onnx", None)
    with pytest.raises(UserError, match=r"teacher=mine\.onnx: task=detection does not use a teacher"):
        restore(written("detector=pan"), "mine.onnx")


def test_a_checkpoint_removes_no_file(tmp_path: Path) -> None:
    """Lightning would remove the file that a resumed checkpoint names as the best one before."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "checkpoints" / ".." / "victim")
    assert victim.exists()


def test_weights_of_a_backbone_are_of_this_suite(content: Content, tmp_path: Path) -> None:
    for change in (lambda s: s.pop("backbone"), lambda s: s["backbone"].update(padding=["same"])):
        file = save(with_change(content, change), tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=r"backbone\.weights") as error:
            build_mobilenet_v1(alpha=0.25, weights=str(file))
        one_line(error.value)
