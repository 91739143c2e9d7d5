"""python -m tasks.cost task=... backbone.alpha=...: multiply-adds and parameters, without any data."""

import json
from typing import Any

from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.multitask_config import compose_config, is_joint


def measure(config: dict[str, Any]) -> None:
    from rich.table import Table

    from backbones.console import Console
    from tasks.engine.cost import count_cost

    module, cost = count_cost(config)
    if config["format"] == "json":
        content = {"madds": cost.madds, "params": cost.params, "layers": cost.layers}
        print(json.dumps(content | module.facts()))
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
    if parts := module.facts().get("parts"):
        show_parts(parts)


def show_parts(parts: dict[str, Any]) -> None:
    """Prints what each of several tasks costs by itself, without the layers that they share."""
    from rich.table import Table

    from backbones.console import Console

    columns = ("px", "multiply-adds (M)", "own parameters (M)", "MB", "single-task run (M)")
    table = Table("task", *columns, title="parameters that each task does not share")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, facts in parts.items():
        cost, own = facts["cost"], facts["own_params_m"]
        row = (f"{cost['madds_m']:,.1f}", f"{own:.3f}", f"{4 * own:.2f}", f"{cost['params_m']:.3f}")
        table.add_row(name, str(facts["resolution"]), *row)
    Console().print(table)


def main() -> None:
    with one_line_errors():
        given = arguments("cost")
        measure(compose_config(given, "cost")[0] if is_joint(given) else load_config(given, "cost"))


if __name__ == "__main__":
    main()
