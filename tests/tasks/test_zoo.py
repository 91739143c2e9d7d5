"""python -m tasks.zoo: lists the weights to start from, without a network."""

import json
import socket
from typing import Any

import pytest

from backbones.weights import public_name
from tasks import zoo
from tasks.engine.config import load_config


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The list, with one file of Keras and one of timm in the caches, and no way to open a socket."""
    root = tmp_path_factory.mktemp("cache")
    (root / "mobilenets").mkdir()
    (root / "mobilenets" / public_name(0.5, 160)).touch()
    folder = root / "hub" / "models--timm--mobilenetv1_125.ra4_e3600_r224_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / "model.safetensors").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
        patch.setattr(socket, "socket", None)
        lines: list[str] = []
        patch.setattr("builtins.print", lines.append)
        zoo.zoo(load_config(["format=json"], "zoo"))
    found: list[dict[str, Any]] = json.loads(lines[0])
    return found


def test_what_is_here_is_said(rows: list[dict[str, Any]]) -> None:
    here = [(row["name"], row["pixels"]) for row in rows if row["cached"]]
    large = "mobilenetv1_125.ra4_e3600_r224_in1k"
    assert here == [("alpha 0.5", 160), (large, 224), (large, 256)]


def test_costs_are_the_papers(rows: list[dict[str, Any]]) -> None:
    """Table 6: alpha at 224 px."""
    found = {row["name"]: row for row in rows if row["pixels"] == 224}
    for alpha, top1, madds, params in ((1, 70.6, 569, 4.2), (0.75, 68.4, 325, 2.6), (0.5, 63.7, 149, 1.3)):
        row = found[f"alpha {alpha:g}"]
        assert row["paper"] == top1
        assert row["madds_m"] == pytest.approx(madds, rel=0.01)
        assert row["params_m"] == pytest.approx(params, rel=0.03)
    assert found["alpha 0.25"]["published"] == 49.7
    assert found["mobilenetv1_100.ra4_e3600_r224_in1k"]["params_m"] == pytest.approx(4.23, abs=0.01)


def test_the_settings_are_those_of_a_run(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 16 + 8 + 2
    assert all(row["licence"] == "apache-2.0" for row in rows)
    for settings in {row["settings"] for row in rows if row["pixels"] not in (160, 192)}:
        config = load_config(settings.split())
        assert config["backbone"]["pretrained"] in ("auto", True)


def test_eighty_columns_cut_no_figure(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    zoo.show([zoo.PublishedWeights(**row) for row in rows])
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith("  python"))
    assert "…" not in printed
    for row in rows:
        assert f"{row['madds_m']:,.0f}" in printed
        assert row["name"][:20] in printed  # a long one is wrapped
