"""What is used of the settings that an untrusted file holds."""

from pathlib import Path

import pytest
import yaml

from backbones.errors import UserError
from tasks.engine.config import load_config
from tasks.engine.saved import below_root, read_plan

OUTSIDE = ("/etc", "../up", "https://host/{000..099}.tar", "file:///etc/passwd", "http{:}//evil/x.tar")
OUTSIDE += ("s3{:,}//evil/x.tar", "a.tar /abs/x.tar", "{.}{.}/x.tar", "{a,{/,b}etc}/x.tar", "x/{.,..}/../x.tar")


@pytest.mark.parametrize("value", OUTSIDE)
def test_only_data_root_is_read_on_a_files_word(value: str) -> None:
    """Patterns of shards are expanded before."""
    data = load_config(["data=coco"])["data"]
    for setting in (value, [value]):
        with pytest.raises(UserError, match="is not below data"):
            below_root(data | {"val_images": setting}, None)
    assert below_root(data | {"val_images": value}, "here")["val_images"] == Path(value).name


@pytest.mark.parametrize("value", ["..", "../..", "a/{.}{.}", "/{.}., {.,x}."])
def test_with_a_root_nothing_else_is_read_either(value: str) -> None:
    data = load_config(["data=coco"])["data"]
    with pytest.raises(UserError, match=r"data\.val_images=.* below|no last part"):
        below_root(data | {"val_images": value}, "here")


@pytest.mark.parametrize("value", ["{1..999999999999}", "{a,b}" * 60, "{" * 5000, "{1..9}" * 20])
def test_a_pattern_of_endless_names_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="more files than can be read"):
        below_root({"root": "here", "train": value}, None)


@pytest.mark.parametrize("setting", ["teacher=x", "backbone.weights=x", "'distill.cache'=x", "+ckpt=x"])
def test_a_plan_of_stages_asks_for_nothing_either(setting: str, tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({"stages": {"a": [setting]}, "overrides": []}))
    with pytest.raises(UserError, match="used only on your word"):
        read_plan(tmp_path / "stages.yaml", [])
    assert read_plan(tmp_path / "stages.yaml", ["teacher=y", "backbone.weights=y", "distill.cache=y", "ckpt=y"])
