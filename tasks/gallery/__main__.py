"""python -m tasks.gallery ckpt=<run> mode=build|add|remove|evaluate|query: locates photos by the most similar ones.

Several processes share the embedding:  torchrun --nproc-per-node 2 -m tasks.gallery ckpt=<run> mode=build
So do tasks of Ray:                     python -m tasks.gallery ckpt=<run> mode=build ray=local of=8
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from backbones.errors import UserError
from tasks.engine.config import arguments, load_config, one_line_errors

if TYPE_CHECKING:
    from data.geo.places import GeoData
    from data.geo.positions import Places
    from tasks.gallery.embed import Worker


VOTES = ("k", "sigma_km", "sharpness", "fusion")
# The settings that not all modes have.
TAKES = {
    "build": ("root", "source", "index", "shard_size", "part", "of", "ray", "batch_size"),
    "add": ("source", "batch_size"),
    "remove": ("source",),
    "evaluate": ("root", "source", "output", "batch_size", *VOTES),
    "query": ("input", "output", "batch_size", *VOTES),
}


def main() -> None:
    with one_line_errors():
        given = arguments("gallery")
        config = load_config(given, "gallery")
        check_settings(given, config["mode"])
        run(config)


def check_settings(given: Sequence[str], mode: str) -> None:
    """Raises UserError if an override is of another mode."""
    for override in given:
        modes = [name for name, settings in TAKES.items() if override.partition("=")[0] in settings]
        if modes and mode not in modes:
            raise UserError(f"{override} has no effect on mode={mode}: it is for mode={' or '.join(modes)}")


def run(config: dict[str, Any]) -> None:
    """Runs a mode.

    Raises:
        UserError: the settings or the files need correction.
    """
    from data.image_file import limit_pixels
    from tasks.engine.checkpoint import find_checkpoint, load_checkpoint, run_of
    from tasks.engine.start import setup
    from tasks.gallery import gallery, on_ray, removal, report

    setup()
    limit_pixels(config["max_pixels"])
    path = find_checkpoint(config["ckpt"])
    checkpoint = load_checkpoint(path, task="geo")
    folder = Path(config["folder"] or run_of(path) / "gallery")
    if config["mode"] == "build":
        if config["ray"]:
            on_ray.embed_parts(config, run)
            config = config | {"of": None}  # the index is made here
        settings = {name: config[name] for name in ("index", "shard_size", "batch_size")}
        worker, places = worker_of(config), source_places(config, checkpoint)
        gallery.build_gallery(folder, checkpoint, places, **settings, worker=worker)
    elif config["mode"] == "add":
        if not config["source"]:
            raise UserError("mode=add needs source=<a CSV file or a folder of photos with GPS>")
        places = source_places(config, checkpoint)
        gallery.add_to_gallery(folder, checkpoint, places, batch_size=config["batch_size"])
    elif config["mode"] == "remove":
        removal.remove_from_gallery(folder, checkpoint, config["source"])
    elif config["mode"] == "evaluate":
        photos = source_places(config, checkpoint, "test")
        report.evaluate(config, checkpoint, folder, photos)
    else:
        report.query(config, checkpoint, folder)


def worker_of(config: dict[str, Any]) -> "Worker | None":
    """Which of several jobs this one is; None if it is the only one.

    Raises:
        UserError: `part` and `of` do not fit.
    """
    from tasks.gallery.embed import Worker

    part, of = config["part"], config["of"]
    if (part is None) != (of is None) or (of and part >= of):
        raise UserError(f"part={part} of={of}: parts count from 0, and `of` says how many there are")
    return None if of is None else Worker(part, of)


def geo_data(config: dict[str, Any], checkpoint: dict[str, Any]) -> "GeoData":
    """The run's data set, at its present location."""
    from data.image_file import limit_pixels
    from tasks.engine.start import saved_data

    data = cast("GeoData", saved_data(checkpoint["suite"]["config"], config["root"]))
    limit_pixels(config["max_pixels"])  # instead of the run's limit
    return data


def source_places(
    config: dict[str, Any], checkpoint: dict[str, Any], split: Literal["gallery", "test"] = "gallery"
) -> "Places":
    """The photos that `source` names, or those of a split of the run's data."""
    from data.geo.positions import read_csv, read_folder

    if not config["source"]:
        return geo_data(config, checkpoint).places(split)
    source = Path(config["source"])
    return read_folder(source) if source.is_dir() else read_csv(source, source.parent, max_bad=0.01)


if __name__ == "__main__":
    main()
