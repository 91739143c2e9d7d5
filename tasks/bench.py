"""python -m tasks.bench ckpt=<run or checkpoint> export=<folder>: speed, memory and size on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors


def find_exports(folder: Path) -> dict[Path, dict[str, Any]]:
    """The exports in a folder or below it, with the content of their model.json.

    Raises:
        UserError: there are none, or one is damaged.
    """
    from tasks.export.package import exports_below

    if found := exports_below(folder):
        return found
    raise UserError(f"export={folder}: there is no export in it (no model.json)")


def main() -> None:
    with one_line_errors():
        config = load_config(arguments("bench"), "bench")
        if not (config["ckpt"] or config["export"]):
            raise UserError("give ckpt=<run or checkpoint>, export=<folder>, or both")
        exports = find_exports(Path(config["export"])) if config["export"] else {}
        from tasks.export.speed import contenders, measure_all, table

        rows = measure_all(contenders(config["ckpt"], exports, config["compile"]), config["seconds"])
        if config["format"] == "json":
            print(json.dumps([asdict(row) for row in rows]))
        else:
            table(rows)


if __name__ == "__main__":
    main()
