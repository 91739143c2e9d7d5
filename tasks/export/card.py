"""The model card beside a model: README.md as the Hugging Face Hub reads it, YAML metadata before Markdown.

The facts about a model may come from an untrusted file: names are put in code spans, where Markdown and HTML have no
effect, and a YAML library writes the metadata.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from backbones.console import plain
from tasks.engine.multitask_config import is_demo
from tasks.engine.report import ABSENT
from tasks.engine.results import Result
from tasks.engine.untrusted import setting
from tasks.export.package import last_part

CARD = "README.md"
LONGEST = 80  # characters of a name
MOST_NAMES = 100  # classes that are listed
SETTINGS = {  # the settings that a card lists, and their names there
    "task.resolution": "pixels, before rho",
    "backbone.alpha": "width (alpha)",
    "backbone.rho": "resolution (rho)",
    "data.batch_size": "batch size",
    "trainer.max_epochs": "epochs",
    "trainer.steps": "steps",
    "trainer.minutes": "minutes",
    "trainer.lr": "learning rate",
    "seed": "seed",
}
GENERAL = (
    "Measure the model on images of the place where it will be used before anything depends on it: its scores are not "
    "probabilities there, and its errors differ between groups of images and of people. No decision about a person "
    "should rest on it alone."
)


def code(text: object) -> str:
    """A name from any source as a code span on one line, safe in a table too."""
    words = " ".join(plain(str(text)).split())
    words = words.replace("`", "'").replace("|", "\N{BROKEN BAR}")
    cut = f"{words[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}" if len(words) > LONGEST else words
    return f"`{cut or '(no name)'}`"


def card(facts: Mapping[str, Any], result: type[Result], licence: str | None = None) -> str:
    """The text of a model card.

    `facts` has the entries of model.json (see `tasks.export.package.Spec`), and whether the backbone was `pretrained`
    on ImageNet; a checkpoint that was not exported lacks `metrics.after` and `latency`. `licence` is the Hub's short
    form, such as apache-2.0.
    """
    facts = {**facts, "places": result.classes_are_places}
    parts = (
        f"---\n{metadata(facts, {facts['task']: (facts, result)}, licence)}---",
        f"# {code(title(facts))}",
        summary(facts),
        use(facts),
        f"## Metrics\n\n{metrics(facts)}",
        f"## Cost\n\n{cost(facts)}",
        f"## Trained on\n\n{trained_on(facts)}",
        f"## Limits\n\n{limits(facts)}",
        f"## Responsible use\n\n{' '.join(filter(None, (result.responsible_use, GENERAL)))}",
    )
    return "\n\n".join(parts) + "\n"


def joint_card(facts: Mapping[str, Any], results: Mapping[str, type[Result]]) -> str:
    """The card of a multi-task export, with a section for each task. `facts` has the entries of model.json."""
    configs = facts["provenance"]["config"]["parts"]
    parts = {
        name: {**facts, **facts["parts"][name], "task": name, "provenance": {"config": configs[name]}}
        | {"places": result.classes_are_places}
        for name, result in results.items()
    }
    sections = [f"---\n{metadata(facts, {name: (parts[name], results[name]) for name in parts}, None)}---"]
    sections += [f"# {code(title(facts))}", summary({**facts, "labels": []}), use(facts), "## Cost", cost(facts)]
    for name, own in parts.items():
        sections += [f"## {code(name)}", summary(own), metrics(own), trained_on(own), limits(own)]
    uses = dict.fromkeys(filter(None, (result.responsible_use for result in results.values())))
    return "\n\n".join([*sections, "## Responsible use", " ".join([*uses, GENERAL])]) + "\n"


def title(facts: Mapping[str, Any]) -> str:
    """Task, backbone, and size."""
    backbone = facts["provenance"]["config"]["backbone"]
    kind = f"MobileNetV1 {backbone['alpha']:g}" if "alpha" in backbone else str(backbone["name"])
    return f"{facts['task']}, {kind}, {facts['input']['size']} px"


def metadata(
    facts: Mapping[str, Any], tasks: Mapping[str, tuple[Mapping[str, Any], type[Result]]], licence: str | None
) -> str:
    """The card's YAML metadata, in ASCII; `tasks` has the facts and the result type of each task."""
    content: dict[str, Any] = {"library_name": "mobilenets", "tags": ["mobilenet", "mobilenets", *map(plain, tasks)]}
    kinds = [result.hub_task for _, result in tasks.values()]
    if len(kinds) == 1 and kinds[0]:
        content["pipeline_tag"] = kinds[0]
    if licence:
        content["license"] = licence
    results = []
    for own, result in tasks.values():
        figures = own["metrics"].get("after") or own["metrics"]["before"]
        rows = [{"type": key, "name": key, "value": round(value, 5)} for key, value in shown(figures) if value == value]
        dataset = {"name": plain(str(data_name(own)))[:LONGEST], "type": "image"}
        results += [{"task": {"type": result.hub_task or "other"}, "dataset": dataset, "metrics": rows}] if rows else []
    if results:
        content["model-index"] = [{"name": plain(title(facts)), "results": results}]
    return yaml.safe_dump(content, sort_keys=False, width=10_000)


def shown(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names and values of the metrics that could be measured, without those of single classes."""
    return [(name, float(value)) for name, value in figures.items() if "/" not in name and value != ABSENT]


def data_name(facts: Mapping[str, Any]) -> str:
    """The data set's option in conf/data, with only the last part of its folder, so that no path is revealed."""
    config = facts["provenance"]["config"]
    folder = last_part(str(config["data"].get("root") or ""))
    option = config["groups"]["data"]
    return f"{folder} ({option})" if folder and folder != option else option


def summary(facts: Mapping[str, Any]) -> str:
    labels, config = facts["labels"], facts["provenance"]["config"]
    groups = [f"{group}={option}" for group, option in config["groups"].items() if group in ("task", "detector")]
    how = f"`{facts['format']}`, quantization `{facts['quantize']}`" if "format" in facts else "a checkpoint"
    words = f"Trained with {', '.join(map(code, groups))} of the MobileNets suite; {how}."
    if labels and facts["places"]:
        words += f"\n\n{len(labels)} cells of the Earth, each with the mean position of its training photos: do not "
        words += "publish the model if they are private."
    elif labels:
        more = f" and {len(labels) - MOST_NAMES} more" if len(labels) > MOST_NAMES else ""
        names = ", ".join(map(code, labels[:MOST_NAMES]))
        words += f"\n\n{len(labels)} {'class' if len(labels) == 1 else 'classes'}: {names}{more}."
    return words


def use(facts: Mapping[str, Any]) -> str:
    file = facts.get("file")
    published = " (or `hub://<owner>/<name>`, where it is published)" if not file or facts["format"] == "torch" else ""
    beside = f", or `python example.py photo.jpg` beside {code(file)}" if file and facts["format"] != "torch" else ""
    return (
        '```python\nfrom tasks import load\n\nfor result in load("<this folder>").predict(["photo.jpg"]):\n'
        f"    print(result.to_dict())\n```\n\nwith the MobileNets suite installed{published}{beside}."
    )


def metrics(facts: Mapping[str, Any]) -> str:
    """A table of the metrics before and after the export, and the data they were measured on."""
    found = facts["metrics"]
    before, after = found["before"], found.get("after")
    titles = ["metric", "checkpoint", *(["this file"] if after else [])]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, value in shown(before):
        values = [value, *([float(after[name])] if after else [])]
        mark = f"**{code(name)}**" if name == found["primary"] else code(name)
        lines.append(f"| {mark} | {' | '.join(f'{v:.4f}' for v in values)} |")
    count = f"{found['images']} validation images" if found.get("images") else "The run's validation images"
    chosen = "the checkpoint was selected by the metric in bold, so results on new images will be a little worse"
    return "\n".join(lines) + f"\n\n{count} of {code(data_name(facts))}; {chosen}."


def cost(facts: Mapping[str, Any]) -> str:
    figures, latency = facts["cost"], facts.get("latency")
    words = f"{figures['madds_m']:,.1f} million multiply-adds an image, {figures['params_m']:.3f} million parameters"
    words += f", {figures['megabytes']:.2f} MB." if "megabytes" in figures else "."
    if latency:
        threads, batch = latency["threads"], latency.get("batch", 1)
        words += (
            f"\n\nOne image takes {latency['median_ms']:.2f} ms (median of {latency['calls']} calls; 95 % under "
            f"{latency['p95_ms']:.2f} ms) from pixels in memory to outputs, "
            f"{f'in batches of {batch}, ' if batch > 1 else ''}in {code(latency['runtime'])} on {threads} "
            f"thread{'s' if threads > 1 else ''} of {code(latency['machine'])}; other programs may have been running. "
            "Other devices differ: `python -m tasks.bench` measures the time on yours."
        )
    return words


def trained_on(facts: Mapping[str, Any]) -> str:
    """The data, and the settings that matter."""
    config = facts["provenance"]["config"]
    backbone = config["backbone"]
    weights = str(config.get("ckpt") or backbone.get("weights") or "")
    if facts.get("pretrained") and not config.get("ckpt"):
        start = "ImageNet weights"
    elif weights:
        start = last_part(weights) or "weights at an address"
    else:
        start = "random weights"
    lines = [f"- data: {code(data_name(facts))}", f"- the backbone started from: {code(start)}"]
    for key, words in SETTINGS.items():
        if (value := setting(config, key)) is not None:
            lines.append(f"- {words}: {code(value)}")
    return "\n".join(lines) + "\n\n" + "The terms of the images apply to what was learned from them."


def limits(facts: Mapping[str, Any]) -> str:
    config, found = facts["provenance"]["config"], facts["metrics"]
    lines = []
    if is_demo(config):
        lines.append("It was trained on generated pictures, to show how the suite works, not on photographs.")
    if found.get("images") and found["images"] < 200:
        lines.append(f"It was measured on {found['images']} images only: the metrics are not reliable.")
    if facts.get("note"):
        lines.append(f"{facts['note']}.")
    if facts["labels"]:
        known = "its cells" if facts["places"] else "the classes above"
        lines.append(f"It knows only {known}, and may assign one of them to anything else.")
    lines.append("It was evaluated only on images like those it was trained on.")
    return "\n".join(f"- {line}" for line in lines)
