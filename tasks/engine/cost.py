"""What the network of a configuration costs."""

from typing import Any

from backbones.cost import Cost
from tasks.engine.options import locate
from tasks.engine.task import TaskModule


def recount(config: dict[str, Any]) -> tuple[TaskModule, Cost]:
    """The network of a configuration and what it costs. Without data the number of classes is the published one."""
    task = locate(config, "task")
    count = config["task"].get("num_classes") or task.published_classes
    module: TaskModule = task(config, [str(i) for i in range(count)], load_weights=False)
    return module, module.model.cost(module.resolution)
