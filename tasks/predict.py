"""python -m tasks.predict ckpt=<run or checkpoint> input=<file | folder | glob>; mode=test measures instead."""

import json
import logging
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from data.files import find_images, output_paths
from tasks.engine.config import arguments, load_config, one_line_errors

log = logging.getLogger(__name__)


def read_images(files: list[Path], at_least: int) -> dict[Path, Any]:
    """What `read_image` gives for each file; unreadable ones are named and left out."""
    from data.image_file import BadImage
    from data.images import read_image

    images = {}
    for file in files:
        try:
            images[file] = read_image(file, at_least, upright=True)
        except BadImage as error:
            log.warning("skipped %s: %s", *error.args)
    return images


def predict(config: dict[str, Any]) -> None:
    files = find_images(config["input"])
    output = Path(config["output"])
    targets = dict(zip(files, output_paths(files, output), strict=True))
    if Path(config["input"]).is_dir() and output.resolve().is_relative_to(Path(config["input"]).resolve()):
        raise UserError(f"output={output} lies inside input={config['input']}; choose a folder elsewhere")

    import torch
    from rich.progress import track
    from torchvision.io import write_png

    from backbones.console import Console
    from data.image_file import limit_pixels
    from data.images import read_image
    from tasks.engine.checkpoint import load_checkpoint
    from tasks.engine.task import restore
    from tasks.engine.train import setup

    setup()
    limit_pixels(config["max_pixels"])
    checkpoint = load_checkpoint(config["ckpt"])
    module = restore(checkpoint)
    if config["threshold"] is not None:
        module.config["task"]["draw_threshold"] = config["threshold"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    if config["reference"]:
        with torch.inference_mode():
            known = read_images(find_images(config["reference"]), module.view_side)
            if not known:
                raise UserError(f"reference={config['against']}: none of these files can be read")
            views = torch.stack([module.prepare_image(image) for image, _ in known.values()])
            module.set_references([str(file) for file in known], views.to(device))
    try:
        output.mkdir(parents=True, exist_ok=True)
        lines = (output / "predictions.jsonl").open("w")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    done, size = 0, config["batch_size"]
    chunks = [files[i : i + size] for i in range(0, len(files), size)]
    with lines, torch.inference_mode():
        for chunk in track(chunks, "predicting", console=Console(stderr=True), transient=True):
            images = read_images(chunk, module.view_side)
            if not images:
                continue
            inputs = [module.prepare_image(image) for image, _ in images.values()]
            sizes = torch.tensor([size for _, size in images.values()], device=device)
            answers = module.predict(torch.stack(inputs).to(device), sizes)
            for file, answer in zip(images, answers, strict=True):
                annotated = targets[file]
                lines.write(json.dumps({"file": str(file), "annotated": str(annotated), **answer}) + "\n")
                if words := module.describe(answer):
                    Console().print(f"{file}: {words}", soft_wrap=True, highlight=False)
                whole, _ = read_image(file, at_least=1 << 30, upright=True)
                annotated.parent.mkdir(parents=True, exist_ok=True)
                write_png(module.draw(whole.contiguous(), answer), str(annotated))
            done += len(images)
    if not done:
        raise UserError(f"input={config['input']}: none of the {len(files)} files could be read")
    Console().print(f"{done} of {len(files)} images; see {output / 'predictions.jsonl'} and the images beside it")


def test(config: dict[str, Any]) -> None:
    from rich.table import Table

    from backbones.console import Console
    from tasks.engine.checkpoint import load_checkpoint
    from tasks.engine.task import restore
    from tasks.engine.train import evaluate, saved_data, setup

    setup()
    module = restore(load_checkpoint(config["ckpt"]), config["teacher"])
    table = Table("metric", "value", title=f"{module.config['task']['name']}, test split")
    for name, value in evaluate(module, saved_data(module.config, config["root"])).items():
        if name != "primary":
            table.add_row(name, f"{value:.4f}")
    Console().print(table)


def main() -> None:
    with one_line_errors():
        config = load_config(arguments("predict"), "predict")
        if not Path(config["ckpt"]).exists():
            raise UserError(f"there is no checkpoint {config['ckpt']}")
        test(config) if config["mode"] == "test" else predict(config)


if __name__ == "__main__":
    main()
