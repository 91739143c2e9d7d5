"""The defaults of classes are those of conf/: used from Python, a class behaves as from the command line."""

import inspect
from collections import defaultdict
from typing import Any

import pytest

from tasks.classification.model import Classifier
from tasks.embedding.model import EmbeddingNet
from tasks.engine.config import options
from tasks.engine.options import _file_of, locate
from tasks.faces.model import AttributeNet
from tasks.geo.model import GeoLocator

NETWORKS = {  # of options whose class takes the whole configuration
    "classification": Classifier,
    "dogs": Classifier,
    "embedding": EmbeddingNet,
    "faces": AttributeNet,
    "geo": GeoLocator,
}
DIFFERENT = {
    "batch_size": "it is of each kind of data",
    "web_labels": "only the demo of dogs is sure to have the file",
    "pairs": "only the demo of people is sure to have the file",
}


def defaults(kind: type) -> dict[str, Any]:
    """The defaults of a class; what it does not itself name, it passes on to the next class."""
    found: dict[str, Any] = {}
    for base in kind.mro():
        if "__init__" in vars(base) and base.__module__.startswith(("data.", "tasks.")):
            named = inspect.signature(vars(base)["__init__"]).parameters.values()
            found = {p.name: p.default for p in named} | found
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}


@pytest.mark.parametrize("group", ["detector", "data", "task"])
def test_defaults_are_those_of_an_option(group: str) -> None:
    """Of any, if a class has several options: some differ from others in a value."""
    found: dict[type, list[dict[str, Any]]] = defaultdict(list)
    for option in options(group):
        if kind := NETWORKS.get(option) if group == "task" else locate({"groups": {group: option}}, group):
            found[kind].append(_file_of(group, option))
    wrong = [
        f"{kind.__name__}: {name}={default}"
        for kind, settings in found.items()
        for name, default in defaults(kind).items()
        if name not in DIFFERENT and default not in [own.get(name, default) for own in settings]
    ]
    assert wrong == []
