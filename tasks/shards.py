"""python -m tasks.shards task=classification data.root=<folder> output=<folder>: writes a data set as tar shards."""

import shlex
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors
from tasks.engine.layout import with_recognized_layout
from tasks.engine.multitask_config import JOINT

SPLITS = ("train", "val", "test", "gallery")
READ_BY = {"geo": "place_shards", "detection": "box_shards", "faces": "face_shards"}  # others as images with a class


def write(config: dict[str, Any]) -> None:
    """Writes the shards of the splits, and prints how to train on them.

    Raises:
        UserError: the data cannot be read, is not of a task that reads shards, or the shards cannot be written.
    """
    if config["part"] >= config["of"]:
        raise UserError(f"part={config['part']} of={config['of']}: parts count from 0")
    if unknown := set(config["splits"]) - set(SPLITS):
        raise UserError(f"splits={min(unknown)}: choose from {', '.join(SPLITS)}")
    if config["groups"]["task"] == JOINT:
        raise UserError(f"task={JOINT}: the shards of its tasks are written one task at a time")
    from backbones.console import Console
    from backbones.files import atomic_write
    from data.layouts.images import CLASSES
    from data.shards.write import write_shards
    from tasks.engine.start import build_data, setup

    setup()
    console, output, task = Console(), Path(config["output"]), config["groups"]["task"]
    data = build_data(config)
    classes = [] if task == "geo" else data.labels  # places have none
    if broken := [name for name in classes if name.splitlines() not in ([name], [])]:
        raise UserError(f"the class {broken[0]!r} has a line break in its name, which {CLASSES} cannot hold: rename it")
    named = task if task in READ_BY else "classification"
    given = [f"task={named}", f"data={READ_BY.get(task, 'shards')}", f"data.root={output}"]
    tests = "test" if "val" in config["splits"] else "val"  # without val, test is measured in training
    names = {"test": tests, "gallery": "gallery"}
    for split in config["splits"]:
        sources = data.sample_sources(split)
        seed = config["seed"] if split == "train" else None
        settings = {"size": config["shard_images"], "seed": seed, "part": config["part"], "of": config["of"]}
        count = write_shards(sources, output, split, **settings)
        console.print(f"{split}: {len(sources)} images in {count} shards", soft_wrap=True)
        if split == "train":
            given.append(f"data.train_count={len(sources)}")
        elif split in names:
            given.append(f"data.{names[split]}={split}-*.tar")
    if classes:
        with atomic_write(output / CLASSES, "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in classes)
        given.append(f"data.classes={CLASSES}")
    console.print(f"train with: python -m tasks.run {shlex.join(given)}", soft_wrap=True)


def main() -> None:
    with one_line_errors():
        write(load_config(with_recognized_layout(arguments("shards"))[0], "shards"))


if __name__ == "__main__":
    main()
