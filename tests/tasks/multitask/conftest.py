"""Runs of several tasks that the tests of this folder share."""

from pathlib import Path

import pytest

from tasks.run import execute

SMALL = (
    *("task=multitask", "backbone.alpha=0.25", "backbone.variant=shallow", "task.resolution=64"),
    *("data.batch_size=8", "data.workers=0"),
    *("trainer.precision=32", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.log_every=1"),
    *("trainer.validate_every=1", "trainer.progress_bar=false"),
)
TASKS = ["detection", "dogs", "faces"]


@pytest.fixture(scope="session")
def sets(scenes: Path, dogs: Path, faces: Path) -> dict[str, list[str]]:
    """The settings of each task's data."""
    people = ["data.people=20", "data.images_per_identity=3", f"data.root={faces}"]
    return {
        "detection": ["data=demo_scenes", f"data.root={scenes}", "data.train=24", "data.val=8", "detector=ssd"],
        "dogs": ["data=dogs", f"data.root={dogs}", "data.web_labels=web_labels.json"],
        "faces": ["data=demo_faces", *people],
        "embedding": ["data=demo_people", *people],
    }


def given(sets: dict[str, list[str]], *tasks: str) -> list[str]:
    """The settings of a run of these tasks."""
    own = [f"{task}.{setting}" for task in tasks for setting in sets[task]]
    return [*SMALL, f"multitask.tasks=[{','.join(tasks)}]", *own]


@pytest.fixture(scope="session")
def run(sets: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three tasks that share all but their heads."""
    runs = tmp_path_factory.mktemp("runs")
    execute([*given(sets, *TASKS), f"paths.runs={runs}", "name=all", "multitask.best_of_each=true"])
    return runs / "multitask" / "all"


@pytest.fixture(scope="session")
def patched(sets: dict[str, list[str]], run: Path) -> Path:
    """A finished run of two tasks that have normalization of their own, beside the other run."""
    more = ["multitask.share=norm", "multitask.balance=uncertainty", "multitask.temperature=0.5"]
    execute([*given(sets, "dogs", "faces"), f"paths.runs={run.parent.parent}", "name=norm", *more])
    return run.parent / "norm"
