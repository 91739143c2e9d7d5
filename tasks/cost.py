"""python -m tasks.cost task=... backbone.alpha=...: multiply-adds and parameters, without any data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.engine.config import arguments, load_config, one_line_errors

if TYPE_CHECKING:
    from backbones.cost import Cost
    from tasks.engine.task import TaskModule


def recount(config: dict[str, Any]) -> tuple[TaskModule, Cost]:
    """The network of a configuration and what it costs. Without data the number of classes is the published one."""
    from tasks.engine.task import locate

    task = locate(config, "task")
    count = config["task"]["num_classes"] or task.published_classes
    module: TaskModule = task(config, [str(i) for i in range(count)], load_weights=False)
    return module, module.model.cost(module.resolution)


def measure(config: dict[str, Any]) -> None:
    from rich.table import Table

    from backbones.console import Console

    module, cost = recount(config)
    if config["format"] == "json":
        print(json.dumps({"madds": cost.madds, "params": cost.params, "layers": cost.layers}))
        return
    count = len(module.labels)
    title = f"{config['task']['name']}, {module.resolution} px" + (f", {count} classes" if count else "")
    table = Table("layer type", "multiply-adds (M)", "%", "parameters", "%", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, (madds, params) in sorted(cost.layers.items(), key=lambda row: -row[1][0]):
        shares = f"{100 * madds / cost.madds:.2f}", f"{100 * params / cost.params:.2f}"
        table.add_row(kind, f"{madds / 1e6:,.3f}", shares[0], f"{params:,}", shares[1])
    table.add_section()
    table.add_row("total", f"{cost.madds / 1e6:,.3f}", "", f"{cost.params:,}", "", style="bold")
    Console().print(table)


def main() -> None:
    with one_line_errors():
        measure(load_config(arguments("cost"), "cost"))


if __name__ == "__main__":
    main()
