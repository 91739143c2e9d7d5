"""The cost of a configuration's network."""

from typing import Any

from backbones.cost import Cost
from backbones.shapes import SkipInit
from tasks.engine.options import locate
from tasks.engine.task import TaskModule


def count_cost(config: dict[str, Any]) -> tuple[TaskModule, Cost]:
    """The network of a configuration, with undefined weights, and its cost. Without data the number of classes is the
    published one.
    """
    task = locate(config, "task")
    with SkipInit():
        module: TaskModule = task(config, task.published_labels(config), load_weights=False)
    return module, module.model.cost(module.resolution)
