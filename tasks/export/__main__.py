"""python -m tasks.export ckpt=<run or checkpoint> format=...: a file for a device, checked by running it."""

from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.export.formats import FORMATS


def execute(overrides: Sequence[str]) -> Path:
    """Exports and returns the folder."""
    config = load_config(overrides, "export")
    file_format = FORMATS[config["format"]]
    if config["quantize"] != "none" and not file_format.int8:
        raise UserError(f"quantize={config['quantize']}: format={file_format.name} cannot be quantized")
    if config["part"] == "backbone" and file_format.name != "torch":
        raise UserError(f"part=backbone needs format=torch; format={file_format.name} contains complete models")
    file_format.module()  # reports a missing package before anything is loaded
    if config["part"] == "all":
        from tasks.export.together import export_all

        return export_all(config)
    from tasks.export.exporter import export

    return export(config)


def main() -> None:
    with one_line_errors():
        execute(arguments("export"))


if __name__ == "__main__":
    main()
