"""python -m tasks.page exports=<export folders or runs>: one static page that runs exports in a browser."""

from collections.abc import Sequence
from pathlib import Path

from backbones.console import Console
from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.web.build import write_page
from tasks.web.serve import serve


def execute(overrides: Sequence[str]) -> Path:
    """Writes the page, serves it if requested, and returns its path."""
    config = load_config(overrides, "page")
    if not config["serve"] and (given := [o for o in overrides if o.startswith(("host=", "port="))]):
        raise UserError(f"{' '.join(given)} has no effect without serve=true")
    path = write_page(config)
    console = Console()
    console.print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB: open it in a browser", soft_wrap=True)
    if config["serve"]:
        serve(path, config["host"], config["port"])
    return path


def main() -> None:
    with one_line_errors():
        execute(arguments("page"))


if __name__ == "__main__":
    main()
