"""python -m tasks.predict ckpt=<run, checkpoint or export> input=<file | folder | glob | video | camera>.

mode=test evaluates instead.
"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backbones.errors import UserError
from backbones.processors import usable_cores
from data.files import check_apart, find_images, output_paths
from tasks import load
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.layout import with_recognized_layout
from tasks.inference.hub import local

if TYPE_CHECKING:
    from tasks.engine.results import Result
    from tasks.inference.predictor import Predictor
    from tasks.inference.video import Source

OF_TEST = ("mode=", "ckpt=", "root=", "teacher=")  # the settings of mode=test
QUALITY, LONGEST = 90, 65_500  # of JPEGs: the quality, and the pixels that a side can have


def predict(config: dict[str, Any]) -> None:
    from tasks.inference.video import video_source

    if source := video_source(config["input"]):
        predict_video(config, source)
        return
    if config["every"] > 1:
        raise UserError(f"every={config['every']} is for videos; input={config['input']} is not a video")
    files = find_images(config["input"])
    output = Path(config["output"])
    targets = dict(zip(files, output_paths(files, output, f".{config['format']}"), strict=True))
    check_apart(config["input"], output)

    from rich.progress import track

    from backbones.console import Console
    from tasks.inference.prefetch import prefetch

    model = open_model(config)
    lines = open_lines(output)
    done, console = 0, Console(stderr=True)
    results = model.predict(files, batch_size=config["batch_size"], skip_unreadable=True)
    threads = usable_cores()

    def drawn(result: "Result") -> "Result":
        assert isinstance(result.source, Path)
        target = targets[result.source]
        target.parent.mkdir(parents=True, exist_ok=True)
        image = result.draw()
        if config["format"] == "jpg":
            image.thumbnail((LONGEST, LONGEST))  # smaller images stay as they are
        image.save(target, quality=QUALITY)
        return result

    with lines, closing(prefetch(drawn, results, threads, config["batch_size"] + threads)) as finished:
        for result in track(finished, "predicting", total=len(files), console=console, transient=True):
            file = result.source
            assert isinstance(file, Path)
            lines.write(json.dumps({"file": str(file), "annotated": str(targets[file]), **result.to_dict()}) + "\n")
            if words := result.describe():
                Console().print(f"{file}: {words}", soft_wrap=True, highlight=False)
            done += 1
    if not done:
        raise UserError(f"input={config['input']}: none of the {len(files)} files could be read")
    Console().print(f"{done} of {len(files)} images; see {output / 'predictions.jsonl'} and the images beside it")


def open_model(config: dict[str, Any]) -> "Predictor":
    """The model, with the references that it compares images with."""
    from data.image_file import limit_pixels
    from tasks.engine.start import set_up_logging

    set_up_logging()
    limit_pixels(config["max_pixels"])
    model = load(config["ckpt"], threshold=config["threshold"], only=config["only"])
    if "torch" in sys.modules:  # exports run without it
        from tasks.engine.hardware import keep_freed_memory, use_granted_cores

        use_granted_cores()
        keep_freed_memory()
    if config["reference"]:
        model.set_references(find_images(config["reference"]))
    return model


def open_lines(output: Path) -> IO[str]:
    """predictions.jsonl, empty; a link of that name is replaced."""
    path = output / "predictions.jsonl"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        return path.open("w")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error


def predict_video(config: dict[str, Any], source: "Source") -> None:
    """Runs the model on the frames of a video until it ends or the user stops it; what is written can be played."""
    from rich.progress import track

    from backbones.console import Console
    from data.image_file import limit_pixels
    from tasks.inference.video import Reader, Writer, annotated_frames, stop_on_signal

    output = Path(config["output"])
    target = output / f"{source.stem}.mp4"
    if target.resolve() == Path(source.name).resolve():
        raise UserError(f"output={output} would overwrite input={config['input']}; choose a folder elsewhere")
    limit_pixels(config["max_pixels"])
    reader = Reader(source)  # before the model, which takes seconds
    model, total = open_model(config), reader.count
    start, done, number = time.monotonic(), 0, -1
    with (
        open_lines(output) as lines,
        closing(reader),
        closing(Writer(target, reader.rate)) as video,
        stop_on_signal() as stopped,
    ):
        frames = annotated_frames(model, reader.frames(), config["every"])
        for number, seconds, image, result in track(
            frames, "predicting", total=total, console=Console(stderr=True), transient=True
        ):
            if result:
                facts = {"file": source.name, "frame": number, "seconds": round(seconds, 4)}
                lines.write(json.dumps(facts | result.to_dict()) + "\n")
                done += 1
            video.write(image, seconds)
            if stopped:
                break
    if not done:
        target.unlink(missing_ok=True)  # without a frame there may be no file
        raise UserError(f"input={config['input']}: none of its frames can be decoded")
    rate = (number + 1) / (time.monotonic() - start)
    words = f"{number + 1} frames, {done} of them predicted, {rate:.1f} frames/s; see {target} and predictions.jsonl"
    Console().print(f"{words} beside it", soft_wrap=True)
    if reader.damaged:
        Console().print(f"{reader.damaged} parts of the video could not be decoded")


def test(config: dict[str, Any]) -> None:
    from tasks.engine.checkpoint import load_checkpoint
    from tasks.engine.start import saved_data, setup
    from tasks.engine.task import restore
    from tasks.engine.train import evaluate

    setup()
    module = restore(load_checkpoint(config["ckpt"]), config["teacher"])
    show_metrics(module, evaluate(module, saved_data(module.config, config["root"])))


def show_metrics(module: Any, metrics: dict[str, float]) -> None:
    from rich.table import Table

    from backbones.console import Console
    from tasks.engine.report import shown_metrics

    table = Table("metric", "value", title=f"{module.config['task']['name']}, test split")
    for name, value in shown_metrics({"metrics": metrics, "primary": module.primary, **module.facts()}).items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


def test_weights(overrides: Sequence[str]) -> None:
    """Evaluates the pretrained classifier in `backbone.weights` on the test split of `data.root`, or on all images if
    there are no splits, without training.

    Raises:
        UserError: the weights have no classifier of the data's classes, or a setting is wrong.
    """
    given = [override for override in overrides if not override.startswith("mode=")]
    task = [] if any(override.startswith("task=") for override in given) else ["task=classification"]
    config = load_config(with_recognized_layout([*task, *given])[0])

    from backbones.console import Console
    from tasks.engine.start import setup
    from tasks.engine.train import evaluate, prepare

    setup()
    if "val" in config["data"] and config["data"]["val"] is None:
        config["data"]["val"] = config["data"]["train"]
    data, module = prepare(config, generate_demo=False)
    if not module.head_is_pretrained:
        raise UserError("the weights have no classifier for the classes of the data; train a model and give ckpt=<run>")
    metrics = evaluate(module.eval(), data)
    Console().print(f"{data.num_images('test'):.0f} images of {config['data']['root']}", soft_wrap=True)
    show_metrics(module, metrics)


def main() -> None:
    with one_line_errors():
        given = arguments("predict")
        if any(o.startswith("backbone.") for o in given) and "mode=test" in given:
            test_weights(given)
            return
        config = load_config(given, "predict")
        if config["mode"] == "test" and (other := [o for o in given if not o.startswith(OF_TEST)]):
            raise UserError(f"{other[0]} has no effect on mode=test, which takes ckpt, root and teacher")
        config["ckpt"] = local(config["ckpt"])
        if not Path(config["ckpt"]).exists():
            raise UserError(f"there is no checkpoint {config['ckpt']}")
        test(config) if config["mode"] == "test" else predict(config)


if __name__ == "__main__":
    main()
