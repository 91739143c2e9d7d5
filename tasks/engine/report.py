"""The report that a run prints at its end."""

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table

from backbones.console import Console
from data.base import SuiteData
from tasks.engine.names import metrics_of

console = Console()
MOST_CLASSES = 12  # that the final table lists
ABSENT = -1.0  # COCO's value where there are no examples


def chosen_metrics(metrics: dict[str, float], primary: str) -> dict[str, float]:
    """The metrics to print: without those that have no examples (-1), and for more than MOST_CLASSES classes, only
    the primary metric of the best and the worst classes.
    """
    metrics = {name: value for name, value in metrics.items() if name != "primary" and value != ABSENT}
    of_classes = {name: value for name, value in metrics.items() if "/" in name}
    if len({name.partition("/")[2] for name in of_classes}) <= MOST_CLASSES:
        return metrics
    whose = next((name for name in of_classes if name.startswith(f"{primary}/")), next(iter(of_classes)))
    alike = [name for name in of_classes if name.partition("/")[0] == whose.partition("/")[0]]
    ranked = sorted(alike, key=lambda name: -metrics[name])
    ranked = [*ranked[: MOST_CLASSES // 2], *ranked[-MOST_CLASSES // 2 :]]
    return {name: metrics[name] for name in (*(name for name in metrics if "/" not in name), *ranked)}


def shown_metrics(content: dict[str, Any]) -> dict[str, float]:
    """The metrics of metrics.json to print: for several tasks, their mean, and each one's without those per class."""
    if "parts" not in content:
        return chosen_metrics(content["metrics"], content["primary"])
    metrics = {content["primary"]: content["metrics"][content["primary"]]}
    for name in content["parts"]:
        own = metrics_of(content["metrics"], name)
        metrics |= {f"{name}/{k}": v for k, v in own.items() if "/" not in k and v != ABSENT}
    return metrics


def show(content: dict[str, Any], folder: Path, data: SuiteData) -> None:
    """Prints the metrics and where to look next."""
    title = f"{content['task']}, best of {content['epoch']} epochs"
    table = Table("metric", "value", title=title, min_width=len(title))
    primaries = {content["primary"], *(f"{name}/{part['primary']}" for name, part in content.get("parts", {}).items())}
    for name, value in shown_metrics(content).items():
        table.add_row(name, f"{value:.3f}", style="bold" if name in primaries else None)
    console.print(table)
    if data.note:
        console.print(f"note: {data.note}", soft_wrap=True)
    for sentence in content["limits"]:
        console.print(sentence, soft_wrap=True)
    for split, bad in data.bad.items():
        if bad:
            console.print(f"skipped {len(bad)} unreadable images of {split}, for example {next(iter(bad))}")
    for split, salvaged in data.salvaged.items():
        console.print(f"salvaged {len(salvaged)} truncated images of {split}, for example {min(salvaged)}")
    console.print(f"run folder   {folder}", soft_wrap=True)
    if (folder / "predictions.png").exists():
        console.print(f"images       {folder / 'predictions.png'}  (truth left, prediction right)", soft_wrap=True)
    console.print(f"curves       tensorboard --logdir {shlex.quote(str(folder.parent.parent))}", soft_wrap=True)
    ckpt, exports = shlex.quote(f"ckpt={folder}"), shlex.quote(f"exports={folder}")
    console.print(f"predict      python -m tasks.predict {ckpt} input=<file | folder | glob | video>", soft_wrap=True)
    part = f"part={next(iter(content['parts']))} " if "parts" in content else ""
    export = f"python -m tasks.export {ckpt} {part}format={content['phone_format']}"
    commands = f"{export} && python -m tasks.page {exports}"
    console.print(f"on a phone   {commands}", soft_wrap=True)
