"""Model cards: the Hub's format, and names from any source as plain text."""

from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tasks.detection.results import DetectionResult
from tasks.embedding.results import EmbeddingResult
from tasks.engine.results import Result
from tasks.export.card import card, joint_card
from tasks.export.package import without_paths
from tasks.geo.results import PositionResult

EVIL = [
    "<img src=x onerror=alert(1)>",
    "[a](https://evil.example)",
    "![a](https://evil.example/a.png)",
    "`` ` ``](https://evil.example)",
    "https://evil.example www.evil.example a@evil.example",
    "a\n\n# heading\n---\nlicense: mit",
    "|--|--|\n| a | b |",
    "\x1b[2J\u202e",
    "<!-- ",
    " ",
    "long " * 100,
]


def facts(labels: list[str], **more: Any) -> dict[str, Any]:
    groups = {"task": "detection", "backbone": "mobilenet_v1", "data": "yolo", "detector": "pan"}
    config: dict[str, Any] = {"groups": groups, "backbone": {"alpha": 0.5}, "data": {"root": "/home/ann/secret/cats"}}
    return {
        "task": "detection",
        "input": {"size": 224},
        "labels": labels,
        "cost": {"madds_m": 12.34, "params_m": 1.5},
        "provenance": {"config": config},
        "metrics": {"primary": "ap", "before": {"ap": 0.25, "ap/cat": 0.25}},
        **more,
    }


def tokens(text: str) -> list[Token]:
    """All Markdown tokens of a card, tables included."""
    parser = MarkdownIt("commonmark").enable("table")
    found = parser.parse(text)
    return [*found, *(child for token in found for child in token.children or [])]


def test_names_are_text() -> None:
    safe = facts(["cat"] * len(EVIL))
    bad = facts(EVIL, note=None)
    bad["metrics"] = {"primary": EVIL[0], "before": dict.fromkeys(EVIL[:1], 0.25)}
    bad["provenance"]["config"]["data"]["root"] = f"/home/{EVIL[5]}"
    cards = [ModelCard(card(content, DetectionResult)) for content in (safe, bad)]
    kinds = [[token.type for token in tokens(c.text)] for c in cards]
    assert kinds[0] == kinds[1]  # nothing that a name holds is a link, a heading, a cell or HTML
    assert {"link_open", "image", "html_inline", "html_block"}.isdisjoint(kinds[1])
    assert cards[0].data.to_dict().keys() == cards[1].data.to_dict().keys()
    assert not set(cards[1].content) & {"\x1b", "\u202e"}


def test_a_card_of_a_checkpoint() -> None:
    found: Any = ModelCard(card(facts(["cat", "owl"]), DetectionResult, "apache-2.0"))
    assert found.data.license == "apache-2.0"
    assert found.data.pipeline_tag == "object-detection"
    (result,) = found.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("ap", 0.25, "cats (yolo)")
    assert "secret" not in found.content
    assert "`cat`, `owl`" in found.text
    assert "12.3 million multiply-adds" in found.text
    assert "started from: `random weights`" in found.text


def test_every_task_says_its_use() -> None:
    assert "consented" in card(facts([]), EmbeddingResult)
    assert "pipeline_tag" not in card(facts([]), Result)
    drawn = facts(["cat"])
    drawn["provenance"]["config"]["groups"]["data"] = "demo_scenes"
    assert "generated pictures" in card(drawn, DetectionResult)


def test_no_position_of_photos_is_listed() -> None:
    """A geo model's classes are named after them."""
    places = facts(["0/89c25 40.71 -74.00", "0/80858 37.77 -122.41"])
    text = card(places, PositionResult)
    assert "40.71" not in text
    assert "2 cells of the Earth" in text
    parts = {"geo": dict(places)}
    places["provenance"]["config"] |= {"parts": {"geo": dict(places["provenance"]["config"])}}
    whole = places | {"task": "multitask", "labels": ["geo/0/89c25 40.71 -74.00"], "parts": parts}
    text = joint_card(whole, {"geo": PositionResult})
    assert "40.71" not in text
    assert "2 cells of the Earth" in text


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        ({"batch": 1, "threads": 1}, "from pixels in memory to outputs, in `ONNX` on 1 thread of `a chip`; other"),
        ({"batch": 4, "threads": 2}, "to outputs, in batches of 4, in `ONNX` on 2 threads of `a chip`; other"),
    ],
)
def test_a_latency_says_how_it_was_measured(latency: dict[str, int], words: str) -> None:
    figures = {"median_ms": 0.42, "p95_ms": 0.5, "calls": 500, "runtime": "ONNX", "machine": "a chip", **latency}
    text = card(facts(["cat"], latency=figures), DetectionResult)
    assert "One image takes 0.42 ms (median of 500 calls; 95 % under 0.50 ms) from" in text
    assert words in text


def test_only_what_can_be_published_has_an_address() -> None:
    texts = [
        card(facts(["cat"], **more), DetectionResult)
        for more in ({}, *({"format": form, "quantize": "none", "file": "model"} for form in ("torch", "onnx")))
    ]
    assert ["`hub://<owner>/<name>`" in text for text in texts] == [True, True, False]


def test_metrics_that_are_no_numbers_are_left_out_of_the_metadata() -> None:
    content = facts([])
    content["metrics"] = {"primary": "ap", "before": {"ap": float("nan"), "ap_large": -1.0}}
    found: Any = ModelCard(card(content, DetectionResult)).data
    assert found.eval_results is None


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({}, "random weights"),
        ({"ckpt": "/home/ann/secret/cats2/"}, "cats2"),
        ({"ckpt": "coco"}, "coco"),
        ({"ckpt": "https://ann:secret@host/cats2?key=/secret"}, "cats2"),
        ({"ckpt": "https://ann:secret@host"}, "weights at an address"),
    ],
)
def test_what_the_backbone_started_from(change: dict[str, Any], start: str) -> None:
    content = facts(["cat"])
    content["provenance"]["config"] |= change
    assert f"- the backbone started from: `{start}`\n" in card(content, DetectionResult)


@pytest.mark.parametrize(
    ("place", "last"),
    [
        ("/home/ann/cats/", "cats"),
        ("C:\\ann\\cats", "cats"),
        ("https://ann:secret@host:8443/a/cats.tar?key=/secret#/secret", "cats.tar"),
        ("https://ann:secret@host.internal", ""),
        ("https://secret@host:8443/", ""),
        ("s3://bucket", ""),
        ("zip://cats.zip::https://secret@host", ""),
        ("https://ann:se#/cret@host", ""),
    ],
)
def test_what_is_published_of_a_path_or_an_address(place: str, last: str) -> None:
    config = {"data": {"root": place, "shards": [place]}, "groups": {"model": "a/b"}}
    assert without_paths(config) == {"data": {"root": last, "shards": [last]}, "groups": {"model": "a/b"}}
