"""python -m tasks.zoo: pretrained weights, with cost, accuracy and licence, and whether they are in the cache."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tasks.engine.config import arguments, load_config, one_line_errors

if TYPE_CHECKING:
    from backbones.cost import Cost

KERAS, TIMM, COCO = "Keras' MobileNetV1, ImageNet", "timm's models, ImageNet", "TensorFlow's detection zoo, COCO"
APACHE = "apache-2.0"


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights: metrics in % (from the paper, and of the published file), and millions of multiply-adds and
    parameters, including the classifier of the data they were trained on.
    """

    source: str
    name: str
    settings: str  # of tasks.run, which downloads them if they are not in the cache
    pixels: int
    paper: float | None
    published: float | None
    madds_m: float
    params_m: float
    licence: str
    cached: bool


def keras() -> Iterator[PublishedWeights]:
    from backbones.download import cache_folder
    from backbones.weights import PUBLIC_ALPHAS, PUBLIC_RESOLUTIONS, public_name
    from tasks.compare.published import content, tables
    from tasks.engine.cost import count_cost

    paper = {row.name: row.values[0] for table in tables() if table.number in (6, 7) for row in table.rows}
    files = {(alpha, pixels): top1 for alpha, pixels, top1, *_ in content()["phone_files"]["files"]}
    for alpha in PUBLIC_ALPHAS:
        config = config_of(f"task=classification task.num_classes=1000 backbone.alpha={alpha:g}")
        for pixels in PUBLIC_RESOLUTIONS:
            printed = paper.get(f"{alpha} MobileNet-{pixels}")
            settings = f"task=classification backbone.alpha={alpha:g} task.resolution={pixels}"
            cached = (cache_folder() / public_name(alpha, pixels)).exists()
            _, cost = count_cost(config | {"task": config["task"] | {"resolution": pixels}})
            top1, name = files.get((alpha, pixels)), f"alpha {alpha:g}"
            yield PublishedWeights(
                KERAS, name, settings, pixels, printed, top1, **cost.millions, licence=APACHE, cached=cached
            )


def timm_models() -> Iterator[PublishedWeights]:
    import timm
    from huggingface_hub import try_to_load_from_cache

    from tasks.compare.published import content

    for model in content()["timm"]:
        name = model["name"]
        cfg = timm.get_pretrained_cfg(name)
        found = try_to_load_from_cache(cfg.hf_hub_id, "model.safetensors") if cfg and cfg.hf_hub_id else None
        licence, cached = (cfg and cfg.license) or "unknown", isinstance(found, str)
        settings = f"task=classification backbone=timm backbone.name={name} backbone.pretrained=true"
        for pixels, top1 in model["top1"].items():
            cost = timm_cost(name, pixels)
            yield PublishedWeights(
                TIMM, name, settings, pixels, None, top1, **cost.millions, licence=licence, cached=cached
            )


def coco() -> Iterator[PublishedWeights]:
    from backbones.download import cache_folder
    from tasks.detection.tf_zoo import PUBLISHED
    from tasks.engine.cost import count_cost

    for alpha, file in PUBLISHED.items():
        settings, name = f"detector=ssd ckpt=coco backbone.alpha={alpha:g}", f"ssd_mobilenet_v1, alpha {alpha:g}"
        _, cost = count_cost(config_of(f"experiment=coco_ssd backbone.alpha={alpha:g}"))
        cached = (cache_folder() / file).exists()
        yield PublishedWeights(COCO, name, settings, 300, None, None, **cost.millions, licence=APACHE, cached=cached)


def config_of(settings: str) -> dict[str, Any]:
    return load_config([*settings.split(), "backbone.pretrained=false"], "cost")


def timm_cost(name: str, pixels: int) -> "Cost":
    """The cost of timm's own network, classifier included."""
    import timm
    import torch

    from backbones.cost import measure_cost

    with torch.device("meta"):
        return measure_cost(timm.create_model(name), pixels)


def show(rows: list[PublishedWeights]) -> None:
    from rich import box
    from rich.table import Table

    from backbones.console import Console

    console = Console()
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        licences = ", ".join(dict.fromkeys(row.licence for row in own))
        table = Table("", box=box.SIMPLE, padding=(0, 1, 0, 0), title=f"{source} ({licences})", title_justify="left")
        table.columns[0].overflow = "fold"
        for name in ("px", "paper %", "file %", "M madds", "M params", "here"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in own:
            tops = ("" if v is None else f"{v:.1f}" for v in (row.paper, row.published))
            cost = f"{row.madds_m:,.0f}", f"{row.params_m:.2f}"
            table.add_row(row.name, str(row.pixels), *tops, *cost, "yes" if row.cached else "no")
        console.print(table)
        console.print(f"  python -m tasks.run {own[0].settings}", soft_wrap=True, highlight=False)
        console.print()
    console.print(
        "paper: top-1 on ImageNet in the MobileNets paper. file: top-1 published with the file, for Keras with the "
        "TensorFlow Lite file of the same network. here: already in the cache. The licence is that of the weights; "
        "ImageNet's images are for research and education.",
        highlight=False,
    )


def zoo(config: dict[str, Any]) -> None:
    rows = [*keras(), *timm_models(), *coco()]
    if config["format"] == "json":
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)


def main() -> None:
    with one_line_errors():
        zoo(load_config(arguments("zoo"), "zoo"))


if __name__ == "__main__":
    main()
