"""The configuration of a run of several tasks: what each has of its own, what is refused, and in which words."""

from pathlib import Path

import pytest

from backbones.errors import UserError
from tasks.engine.config import flatten, load_config, run_config, saved_config
from tasks.engine.cost import count_cost
from tasks.engine.multitask_config import compose_config
from tests.conftest import command

TWO = "multitask.tasks=[dogs,faces]"
BAD = {
    "multitask.tasks=[dogs]": r"multitask.tasks=\[dogs\]: name at least two of classification, detection",
    "": "multitask.tasks=null: name at least two of",
    "multitask.tasks=[dogs,cats]": "there is no task 'cats'; choose from classification, detection",
    "multitask.tasks=[dogs,multitask]": "there is no task 'multitask'",
    "multitask.tasks=[dogs,dogs]": "multitask.tasks names dogs twice",
    f"{TWO} geo.data.root=x": r"geo.data.root: geo is not among multitask.tasks=\[dogs,faces\]",
    f"{TWO} dogs.backbone.alpha=1": "dogs.backbone.alpha cannot be set for one task: it is common to all tasks",
    f"{TWO} dogs.trainer.steps=3": "dogs.trainer.steps cannot be set",
    f"{TWO} dogs.task.dropuot=1": "dogs: unknown setting 'task.dropuot'; did you mean 'task.dropout'",
    f"{TWO} dogs.task.dropout=1": "dogs: task.dropout=1: must be in",
    f"{TWO} dogs.data.root=/nowhere": "dogs: data.root: there is no folder /nowhere",
    f"{TWO} data.root=x": "data.root=... belongs to one task: put the task's name in front",
    f"{TWO} data=dogs": "data=... belongs to one task: put the task's name in front",
    f"{TWO} foo=1": "unknown setting 'foo'",
    f"{TWO} task.drop_near_test=0": "faces: unknown setting 'task.drop_near_test'",
    f"{TWO} multitask.weights=[1]": "multitask.weights must be 2 numbers, one for each of dogs, faces",
    f"{TWO} multitask.weights=[1,0]": "multitask.weights=.*must be above 0",
    f"{TWO} multitask.weights=[1,a]": "must be a list of numbers",
    f"{TWO} multitask.share=some": "choose from all, norm, depthwise",
    "multitask.add=faces": "multitask.add=faces: give the multi-task run to add it to, ckpt=<run folder>",
    "multitask.add=faces ckpt=/nowhere": "ckpt=/nowhere: this is not a run folder",
}


@pytest.mark.parametrize("settings", BAD)
def test_bad_settings(settings: str) -> None:
    with pytest.raises(UserError, match=BAD[settings]) as error:
        compose_config(["task=multitask", *settings.split()])
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_with_one_line() -> None:
    result = command("run", "task=multitask", "multitask.tasks=[dogs,dogs]")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: multitask.tasks names dogs twice; each task can be named once\n"


def test_a_task_is_composed_as_in_its_own_run() -> None:
    own = ["detector=ssd", "task.score_threshold=0.1", "trainer.lr=0.02"]
    common = ["backbone.alpha=0.5", "trainer.max_epochs=3", "data.batch_size=4", "trainer.freeze_early_layers=false"]
    config, _ = compose_config(
        ["task=multitask", "multitask.tasks=[dogs,detection]", *common, *(f"detection.{o}" for o in own)]
    )
    part, single = config["parts"]["detection"], load_config(["task=detection", *own, *common])
    assert flatten(part) == flatten(single)
    assert part["groups"] == single["groups"]
    assert config["parts"]["dogs"]["trainer"]["lr"] == 0.002
    assert saved_config(config, "x") == config


def test_an_experiment_for_all_and_one_of_a_task() -> None:
    config, _ = compose_config(["task=multitask", TWO, "experiment=smoke", "faces.experiment=face_attributes"])
    assert config["trainer"]["limit_train_batches"] == 30
    assert {part["task"]["resolution"] for part in config["parts"].values()} >= {128}
    assert config["parts"]["dogs"]["trainer"]["limit_train_batches"] == 30


def test_data_is_recognised_for_each_task(dogs: Path, faces: Path) -> None:
    config, told = compose_config(
        ["task=multitask", TWO, f"dogs.data.root={dogs / 'Images'}", f"faces.data.root={faces}"]
    )
    assert config["parts"]["dogs"]["groups"]["data"] != "demo_dogs"
    assert "dogs: " in told
    assert "faces: " in told


def test_settings_of_a_run_are_saved_as_plain_yaml(run: Path) -> None:
    config = run_config(run)
    assert list(config["parts"]) == ["detection", "dogs", "faces"]
    assert "_target_" not in (run / "config.yaml").read_text()


@pytest.mark.parametrize("change", ["another backbone", "another name", "missing"])
def test_a_damaged_configuration(run: Path, change: str) -> None:
    config = run_config(run)
    if change == "another backbone":
        config["parts"]["dogs"]["backbone"]["alpha"] = 1.0
    elif change == "another name":
        config["parts"]["dogs"] = config["parts"]["faces"]
    else:
        del config["parts"]["dogs"]
    with pytest.raises(UserError, match="file is damaged: its part"):
        saved_config(config, "file")


def test_what_a_task_costs(run: Path) -> None:
    """Parameters differ between ways of sharing by what each task's own layers hold."""
    found = {}
    for share in ("all", "norm", "depthwise"):
        config, _ = compose_config(["task=multitask", "multitask.tasks=[dogs,faces,geo]", f"multitask.share={share}"])
        module, cost = count_cost(config)
        found[share] = cost.params
        own = {name: facts["own_params_m"] for name, facts in module.facts()["parts"].items()}
        assert all(value > 0 for value in own.values())
    channels = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024]  # of the depthwise layers of Table 1
    norm = 2 * (32 + sum(channels) + sum([64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]))
    assert found["norm"] - found["all"] == 2 * norm
    assert found["depthwise"] - found["norm"] == 2 * 9 * sum(channels)
