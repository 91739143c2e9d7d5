"""python -m tasks.cost task=... backbone.alpha=...: multiply-adds and parameters, without any data."""

import json
from typing import Any

from tasks.engine.config import arguments, load_config, one_line_errors


def measure(config: dict[str, Any]) -> None:
    from rich.table import Table

    from backbones.console import Console
    from tasks.engine.cost import recount

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
