"""Which settings of an untrusted file are used."""

from pathlib import Path

import pytest
import yaml

from backbones.errors import UserError
from tasks.engine.config import load_config, saved_config, saved_groups
from tasks.engine.multitask_config import compose_config
from tasks.engine.stages import with_stage_data
from tasks.engine.untrusted import below_root, check_stage, read_plan, resumed_config
from tasks.run import execute

OUTSIDE = [
    *("/etc", "../up", "https://host/{000..099}.tar", "file:///etc/passwd", "http{:}//evil/x.tar"),
    *("s3{:,}//evil/x.tar", "a.tar /abs/x.tar", "{.}{.}/x.tar", "{a,{/,b}etc}/x.tar", "x/{.,..}/../x.tar"),
]


@pytest.mark.parametrize("value", OUTSIDE)
def test_only_data_root_is_read_on_a_files_word(value: str) -> None:
    """Brace patterns of shards are expanded before the check."""
    data = load_config(["data=coco"])["data"]
    for setting in (value, [value]):
        with pytest.raises(UserError, match="is outside data"):
            below_root(data | {"val_images": setting}, None)
    assert below_root(data | {"val_images": value}, "here")["val_images"] == Path(value).name


@pytest.mark.parametrize("value", ["..", "../..", "a/{.}{.}", "/{.}., {.,x}."])
def test_with_a_root_nothing_else_is_read_either(value: str) -> None:
    data = load_config(["data=coco"])["data"]
    with pytest.raises(UserError, match=r"data\.val_images=.* outside|no file name"):
        below_root(data | {"val_images": value}, "here")


@pytest.mark.parametrize("value", ["{1..999999999999}", "{a,b}" * 60, "{" * 5000, "{1..9}" * 20])
def test_a_pattern_of_endless_names_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="more files than can be read"):
        below_root({"root": "here", "train": value}, None)


@pytest.mark.parametrize(
    "setting", ["teacher=x", "backbone.weights=x", "'distill.cache'=x", "+ckpt=x", "dogs.teacher=x"]
)
def test_a_plan_of_stages_asks_for_nothing_either(setting: str, tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({"stages": {"a": [setting]}, "overrides": []}))
    with pytest.raises(UserError, match="used only if you confirm"):
        read_plan(tmp_path / "stages.yaml", [])
    assert read_plan(tmp_path / "stages.yaml", ["teacher=y", "backbone.weights=y", "distill.cache=y", "ckpt=y"])


JOINT = ("task=multitask", "multitask.tasks=[dogs,faces]", "dogs.data=dogs", "faces.data=celeba")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=dogs", "distill={cache: /x}"], "distill.cache=/x"),
        ([*JOINT, "dogs.distill={cache: /x}"], "dogs.distill.cache=/x"),
        ([*JOINT, "faces.distill={cache: '/x; rm'}"], "'faces.distill.cache=/x; rm'"),
        ([*JOINT, "distill={cache: /x}"], "dogs.distill.cache=/x"),
    ],
)
def test_what_a_plan_composes_asks_for_nothing_either(overrides: list[str], words: str, tmp_path: Path) -> None:
    """However it is written, and for each task of a joint run."""
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({"stages": {"a": []}, "overrides": overrides}))
    with pytest.raises(UserError, match="used only if you confirm") as error:
        execute([f"resume={tmp_path}"])
    assert words in str(error.value)


def test_a_plan_may_name_what_this_machine_says_or_is_given(tmp_path: Path) -> None:
    """The weights of a recipe in conf/, and a teacher that the command line names too, but no other."""
    recipe = ["experiment=stanford_dogs"]
    check_stage(load_config(recipe), recipe, [], tmp_path)
    given = ["teacher=mine.onnx"]
    check_stage(load_config(["task=faces", *given]), ["task=faces", "teacher=theirs.onnx"], given, tmp_path)
    config, _ = compose_config([*JOINT, "faces.teacher=theirs.onnx", *given])
    with pytest.raises(UserError, match=r"names faces\.teacher=theirs\.onnx"):
        check_stage(config, JOINT, given, tmp_path)


def test_a_resumed_run_keeps_the_optimizers_groups(tmp_path: Path) -> None:
    """Parameters of equal learning rate and decay are one group, also of different tasks."""
    given = [*JOINT, "dogs.trainer.lr=0.001"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(compose_config(given)[0]))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()

    def resumed_rates(*more: str) -> list[float]:
        again = [f"resume={tmp_path}", *more]
        found = resumed_config(tmp_path, compose_config([*saved_groups(str(tmp_path)), *again])[0], again)
        return [part["trainer"]["lr"] for part in found["parts"].values()]

    assert resumed_rates("trainer.lr=0.003", "dogs.trainer.lr=0.002", "faces.trainer.lr=0.001") == [0.002, 0.001]
    for more in ("trainer.lr=0.003", "faces.trainer.lr=0.001", "dogs.trainer.lr=0.004"):
        with pytest.raises(UserError, match=r"as in dogs\.trainer\.lr="):
            resumed_rates(more)


def test_data_of_a_planned_task_is_elsewhere_on_its_own_word_alone() -> None:
    config, _ = compose_config([*JOINT, "dogs.data.web=/web"])
    assert with_stage_data(config, ["dogs.data.web=/web"])["parts"]["dogs"]["data"]["web"] == "/web"
    for given in ([], ["data.web=/web"], ["faces.data.web=/web"]):
        with pytest.raises(UserError, match=r"data\.web=/web is outside data\.root"):
            with_stage_data(config, given)


def test_an_integer_of_thousands_of_digits() -> None:
    """Python refuses to print it."""
    with pytest.raises(UserError, match=r"x\.ckpt: "):
        saved_config(load_config(["task=detection"]) | {"seed": 1 << 20_000}, "x.ckpt")
