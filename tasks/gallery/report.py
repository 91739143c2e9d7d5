"""Reports on located photos: tables, maps, lines."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from backbones.console import Console
from backbones.errors import UserError
from data.crops import read_whole
from data.files import check_apart, find_images, output_paths
from data.geo.positions import Places
from data.geo.s2 import Floats
from data.geo.sphere import great_circle_km, positions_of
from data.image_file import BadImage, read_pixels
from tasks.engine.task import restore
from tasks.gallery.embed import fingerprint
from tasks.gallery.gallery import Gallery
from tasks.gallery.locate import Locations, Locator
from tasks.geo import maps
from tasks.geo.gazetteer import nearest_place
from tasks.geo.results import in_words, place
from tasks.geo.task import GeoTask, error_metrics

log = logging.getLogger(__name__)
console = Console()

MAP_WIDTH, THUMBNAIL = 1024, 128  # pixels


def open_locator(config: dict[str, Any], checkpoint: dict[str, Any], folder: Path) -> tuple[GeoTask, Locator]:
    """The model with its gallery.

    Raises:
        UserError: the gallery is absent, damaged, another model's, or smaller than k.
    """
    gallery = Gallery(folder, fingerprint(checkpoint))
    if config["k"] > len(gallery):
        raise UserError(f"k={config['k']} is more than the {len(gallery)} photos of the gallery {folder}")
    module = restore(checkpoint)
    assert isinstance(module, GeoTask)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    settings = {name: config[name] for name in ("k", "sigma_km", "sharpness", "fusion")}
    return module, Locator(module.model, gallery, **settings)


def locate_all(
    module: GeoTask, locator: Locator, paths: Sequence[Path], size: int
) -> Iterator[tuple[list[int], Locations]]:
    """Batches of the rows whose photos can be read, with their locations; the others are reported and left out."""
    device = next(module.parameters()).device
    for start in range(0, len(paths), size):
        rows, images = [], []
        for row in range(start, min(start + size, len(paths))):
            try:
                images.append(read_whole(paths[row], module.resolution))
            except BadImage as error:
                log.warning("skipped %s: %s", *error.args)
                continue
            rows.append(row)
        if rows:
            with torch.inference_mode():
                yield rows, locator(torch.stack(images).to(device))


def evaluate(config: dict[str, Any], checkpoint: dict[str, Any], folder: Path, places: Places) -> dict[str, Any]:
    """Prints and writes the metrics of the three methods and a map of the errors; returns the metrics."""
    module, locator = open_locator(config, checkpoint, folder)
    rows: list[int] = []
    found: dict[str, list[Floats]] = {}
    for some, located in locate_all(module, locator, places.paths, config["batch_size"]):
        rows += some
        for way, positions in located.positions.items():
            found.setdefault(way, []).append(positions)
    if not rows:
        raise UserError(f"none of the {len(places)} photos could be read, for example {places.paths[0]}")
    truth = places.positions[rows]
    errors = {way: great_circle_km(np.concatenate(parts), truth) for way, parts in found.items()}
    metrics: dict[str, Any] = {way: error_metrics(e) for way, e in errors.items()}
    table = Table("metric", *errors, title=f"{len(rows)} photos, gallery of {len(locator.gallery)}")
    for name in metrics["fusion"]:
        digits = 1 if name == "median_km" else 3
        table.add_row(name, *(f"{metrics[way][name]:.{digits}f}" for way in errors))
    console.print(table)
    for kind in ("continent", "country"):
        if parts := by_place(truth, errors, kind):
            metrics[kind] = parts
            if kind == "continent":  # there are too many countries to print
                console.print(places_table(kind, parts, list(errors)))
    output = _output(config)
    (output / "evaluation.json").write_text(json.dumps(metrics, indent=2) + "\n")
    maps.error_map(truth, errors["fusion"]).save(output / "errors.png")
    console.print(f"see {output / 'evaluation.json'} and {output / 'errors.png'}", soft_wrap=True)
    return metrics


def by_place(
    truth: Floats, errors: dict[str, Floats], kind: Literal["continent", "country"]
) -> dict[str, dict[str, float]]:
    """Median errors in km by continent or country of the city nearest to the truth; empty without city names."""
    names = [getattr(near, kind) if (near := nearest_place(*position)) else None for position in truth.tolist()]
    found: dict[str, dict[str, float]] = {}
    for name in sorted({name for name in names if name}):
        own = np.array([n == name for n in names])
        found[name] = {"photos": int(own.sum()), **{way: float(np.median(e[own])) for way, e in errors.items()}}
    return found


def places_table(kind: str, parts: dict[str, dict[str, float]], ways: list[str]) -> Table:
    table = Table(kind, "photos", *(f"{way}, median km" for way in ways))
    for name, row in parts.items():
        table.add_row(name, str(row["photos"]), *(f"{row[way]:.0f}" for way in ways))
    return table


def query(config: dict[str, Any], checkpoint: dict[str, Any], folder: Path) -> None:
    """Prints where each photo of `input` was taken, and writes the positions and a map for each."""
    paths = find_images(config["input"])
    check_apart(config["input"], Path(config["output"]))
    module, locator = open_locator(config, checkpoint, folder)
    output, done = _output(config), 0
    targets = output_paths(paths, output)
    with (output / "answers.jsonl").open("w") as lines:
        for rows, located in locate_all(module, locator, paths, config["batch_size"]):
            for i, row in enumerate(rows):
                said = {way: place(*positions[i].tolist()) for way, positions in located.positions.items()}
                found = located.neighbours.found(i)
                near = [
                    {"path": locator.gallery.paths[n], "similarity": round(float(s), 4)}
                    for n, s in zip(found.rows, found.similarities, strict=True)
                ]
                lines.write(json.dumps({"file": str(paths[row]), **said, "neighbours": near}) + "\n")
                where = said["fusion"]
                console.print(f"{paths[row]}: {in_words(where)}", soft_wrap=True, highlight=False)
                targets[row].parent.mkdir(parents=True, exist_ok=True)
                location_map(paths[row], located, i, locator).save(targets[row])
                done += 1
    if not done:
        raise UserError(f"input={config['input']}: none of the {len(paths)} files could be read")
    console.print(
        f"{done} of {len(paths)} photos; see {output / 'answers.jsonl'} and the maps beside it", soft_wrap=True
    )


def location_map(path: Path, located: Locations, i: int, locator: Locator) -> Image.Image:
    """A map of the cells and neighbours behind the i-th location; below it the photo and its nearest gallery photos."""
    rows, _, near = located.neighbours.found(i)
    cells = located.cells.cells[i].cpu().numpy()
    means = positions_of(locator.model.fine_directions[cells].cpu().numpy())
    weights = np.concatenate([located.cells.probabilities[i].cpu().numpy(), np.full(len(near), 1 / max(1, len(near)))])
    world = maps.heat(maps.world(MAP_WIDTH), np.concatenate([means, near]), weights, max(400.0, locator.sigma_km))
    maps.dots(world, near, maps.OTHER, radius=4)
    maps.dots(world, located.positions["fusion"][i], maps.PREDICTION, radius=6)
    page = Image.new("RGB", (MAP_WIDTH, MAP_WIDTH // 2 + THUMBNAIL), "white")
    page.paste(world)
    beside = [Path(locator.gallery.paths[n]) for n in rows[: MAP_WIDTH // THUMBNAIL - 1]]
    for column, image in enumerate([path, *beside]):
        try:
            pixels, _ = read_pixels(image, THUMBNAIL)
        except BadImage:  # a gallery works without its photos, too
            continue
        small = Image.fromarray(pixels).resize((THUMBNAIL - 2, THUMBNAIL - 2))
        page.paste(small, (column * THUMBNAIL, MAP_WIDTH // 2))
    return page


def _output(config: dict[str, Any]) -> Path:
    output = Path(config["output"])
    output.mkdir(parents=True, exist_ok=True)
    return output
