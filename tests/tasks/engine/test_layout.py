"""File and folder names in a data folder become settings unchanged, or are refused."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backbones.errors import UserError
from tasks.engine.config import load_config, quoted
from tasks.engine.layout import with_recognized_layout


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12))
def test_quoted_text_is_the_same_to_hydra(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"a={quoted(text)}"])
    assert override.value() == text


def split_folders(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "owl"):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(root / split / name / "a.png")


def test_a_folders_name_is_no_interpolation(tmp_path: Path) -> None:
    """It led outside of data.root, and put environment variables into the run's configuration."""
    split_folders(tmp_path / "${oc.env:HOME}")
    with pytest.raises(UserError, match=r"has a file or folder named '\$\{oc.env:HOME\}/train': rename it"):
        with_recognized_layout(["task=classification", f"data.root={tmp_path}"])


def test_odd_names_are_themselves(tmp_path: Path) -> None:
    split_folders(tmp_path / "it's [a] \\ b,c")
    config = load_config(with_recognized_layout(["task=classification", f"data.root={tmp_path}"])[0])
    assert config["data"]["train"] == "it's [a] \\ b,c/train"
