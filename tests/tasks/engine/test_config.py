"""Settings: what is refused, how fast, and in which words."""

import copy
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backbones.errors import UserError
from data.text import read_plain_yaml
from tasks.engine import config as configuration
from tasks.engine.config import _composition, arguments, flatten, load_config, options, run_config, saved_config
from tasks.engine.options import target
from tests.conftest import ROOT, command

BAD = {
    "backbone.alpha=0": r"backbone.alpha=0: must be in \(0, 2\]",
    "backbone.alpha=wide": r"backbone.alpha=wide: must be a number in \(0, 2\]",
    "backbone.alpha=": "must be a number",
    "task=segmentation": "task=segmentation: choose from classification, detection, ",
    "data=imagenot": "data=imagenot: choose from box_csv, ",
    "detector=yolo": "detector=yolo: choose from faster_rcnn, pan, ssd",
    "backbone.alfa=1": "unknown setting 'backbone.alfa'; did you mean 'backbone.alpha'",
    "+backbone.alfa=1": "unknown setting 'backbone.alfa'; did you mean 'backbone.alpha'",
    "++colour=red": "unknown setting 'colour'",
    "alpha=0.5": "did you mean 'backbone.alpha'",
    "+seed=1": "settings are changed with seed=value",
    "~seed": "not of the form key=value",
    "seed=1.5": "seed=1.5: must be of type int",
    "trainer.compile=maybe": "trainer.compile=maybe: must be of type bool",
    "backbone.padding=zero": "backbone.padding=zero: choose from same, symmetric, null",
    "seed=${nothing}": "nothing",
    "backbone.alpha=[1": "backbone.alpha|viable",
    "backbone.alpha=0.5,1": "Ambiguous value",
    "backbone.alpha=0,5": "write backbone.alpha=0.5 with a decimal point; to run both values, add -m",
}


@pytest.mark.parametrize("file", sorted((ROOT / "conf/experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_composes_and_says_whether_it_was_measured(file: Path) -> None:
    header = file.read_text().splitlines()[1]
    assert re.match(r"# Measured: (no \(|20\d\d-\d\d-\d\d, BENCHMARKS\.md)", header), header
    assert load_config([f"experiment={file.stem}"])["groups"]


@pytest.mark.parametrize("override", BAD)
def test_bad_settings(override: str) -> None:
    with pytest.raises(UserError, match=BAD[override]) as error:
        load_config([override])
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_with_one_line_and_status_2() -> None:
    result = command("run", "backbone.alpha=0")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: backbone.alpha=0: must be in (0, 2]\n"


def test_a_sweep_is_checked_before_its_first_run() -> None:
    result = command("run", "-m", "backbone.alpha=0.5,3", "backbone.rho=1,0.5")
    assert (result.returncode, result.stdout) == (2, "")
    assert "backbone.alpha=3" in result.stderr


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    code = (
        "import runpy, sys\n"
        "for line in sys.argv[1:]:\n"
        "    sys.argv[1:] = line.split()\n"
        "    try: runpy.run_module('tasks.run', run_name='__main__')\n"
        "    except SystemExit: pass\n"
        "    assert 'torch' not in sys.modules, line"
    )
    lines = ["--help", "backbone.alpha=0", "task=multitask multitask.tasks=[dogs,dogs]"]
    result = subprocess.run([sys.executable, "-c", code, *lines], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("error: ") == 2


def test_a_torch_that_does_not_fit_torchvision(tmp_path: Path) -> None:
    """A fake torchvision, first on the path, raises what the real one does beside a CPU-only torch."""
    (tmp_path / "torchvision").mkdir()
    lines = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(lines)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import sys; from tasks.run import main; sys.argv = ['run']; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: torch and torchvision are not of the same build")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("chosen", "words", "absent"),
    [
        (
            ["task=detection"],
            (
                "--- detector=pan, chosen from faster_rcnn, pan, ssd, ssd_fpn, ssdlite\n",
                "\nbackbone:\n  # MobileNetV1",
                "  alpha: 1.0              # width multiplier\n",
                "  mosaic: 0.5            # probability",
                "\n  # The demo: generated scenes",
            ),
            ("soft_km",),
        ),
        (["task=geo"], ("  soft_km: 0.0 ", "  max_photos: [320, 80, 20]\n"), ("nms_iou",)),
        (["task=faces", "experiment=smoke"], ("  temperature: 1.0", "  limit_train_batches: 30\n"), ("mosaic",)),
        (["task=multitask", "dogs.data.root=x"], ("  share: all ",), ()),
    ],
)
def test_help_explains_the_settings(chosen: list[str], words: tuple[str, ...], absent: tuple[str, ...]) -> None:
    result = command("run", "--help", *chosen)
    assert result.returncode == 0, result.stderr
    for word in words:
        assert word in result.stdout
    for word in ("allowed", "_target_", "_result_", "hydra", "_classifier", "@package", *absent):
        assert f"{word}:" not in result.stdout.replace("# ", "")
        assert f" {word}," not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 122


@pytest.mark.parametrize("task", ["detection", "faces", "geo", "multitask"])
def test_help_has_every_setting_and_its_default(task: str) -> None:
    """Read as YAML, where a value further down replaces one above."""
    found: dict[str, Any] = {}
    for section in command("run", "--help", f"task={task}").stdout.split("\n\n"):
        found |= flatten(yaml.load(section, yaml.SafeLoader) or {})
    wanted = flatten(load_config([f"task={task}"]))
    found = {key: value for key, value in found.items() if key not in ("defaults", "data") and "${" not in str(value)}
    wanted = {key: value for key, value in wanted.items() if not key.startswith("groups.") and key != "data.root"}
    assert found == wanted


def test_a_setting_that_must_be_given() -> None:
    result = command("predict", "input=photos")
    assert (result.returncode, result.stderr) == (2, "error: give ckpt=<value>; `--help` explains it\n")


def test_every_experiment_composes() -> None:
    for file in (ROOT / "conf" / "experiment").glob("*.yaml"):
        load_config([f"experiment={file.stem}"])


def test_a_detectors_resolution_has_one_home() -> None:
    assert load_config(["task=detection", "detector=pan"])["task"]["resolution"] == 320
    config = load_config(["task=detection", "detector=faster_rcnn", "task.resolution=600"])
    assert config["task"]["resolution"] == 600
    assert "resolution" not in config["detector"]
    with pytest.raises(UserError, match=r"unknown setting 'detector\.resolution'"):
        load_config(["detector.resolution=416"])


def test_a_setting_that_is_no_more_does_not_keep_a_file_from_being_read() -> None:
    config = load_config(["task=detection"])
    older = copy.deepcopy(config)
    older["data"]["zoom_out"] = 0.5
    older["task"]["evaluator"] = "faster"
    older["trainer"]["head_warmup_epochs"] = 0
    assert saved_config(older, "best.ckpt") == config
    older["data"]["zoom_in"] = 0.5
    with pytest.raises(UserError, match=r"best\.ckpt: unknown setting 'data\.zoom_in'"):
        saved_config(older, "best.ckpt")
    with pytest.raises(UserError, match=r"unknown setting 'data\.zoom_out'"):
        load_config(["task=detection", "data.zoom_out=0.5"])


def test_odd_values_of_settings() -> None:
    """Every group with every option, hidden ones too, and random settings with odd values: composed, or one line."""
    rng = random.Random(2)
    groups = [p for p in configuration.CONF.iterdir() if p.is_dir()]
    options = [f"{g.name}={f.stem}" for g in groups for f in g.glob("*.yaml")]
    hidden = {o for o in options if "=_" in o}
    odd = ["", "null", "-1", "nan", "1e400", "true", "[]", "{}", "[1, a]", "{a: {b: 1}}", "../x", "???", "${seed}"]
    odd += ["${oc.env:HOME}", "${oc.decode:x}", "'", "my run", "\x1b[31m", "9" * 400, "0x1F", "a=b", "${", "_target_"]
    tasks = ["task=detection", "task=dogs", "task=faces", "task=embedding", "task=geo"]
    keys = {task: [*configuration.flatten(load_config([task])), "backbone._target_", "hydra.run.dir"] for task in tasks}
    tried = [[option] for option in options]
    while len(tried) < len(options) + 45:
        task = rng.choice(tasks)
        tried.append([task, f"{rng.choice(keys[task])}={rng.choice(odd)}"])
    refused = []
    for overrides in tried:
        try:
            config = load_config(overrides)
            assert not hidden & set(overrides)
            assert "_target_" not in configuration.flatten(config)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("\n" not in words and len(words) < 1000 for words in refused)


def test_read_plain_yaml_is_what_was_written(tmp_path: Path) -> None:
    config = load_config(["experiment=dogs_noisy"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_plain_yaml(tmp_path / "config.yaml") == config
    assert run_config(tmp_path) == config


@pytest.mark.parametrize("group", ["backbone", "data", "detector", "task"])
def test_what_an_option_stands_for_is_what_composing_it_gives(group: str) -> None:
    """`target` finds it without composing, which is slow; options may be based on others."""
    for option in options(group):
        choice = [f"{group}={option}", *(["multitask.tasks=[dogs,faces]"] if option == "multitask" else [])]
        composed, _ = _composition("config", tuple(choice))
        assert target({group: option}, group) == composed[group]["_target_"], option


@pytest.mark.parametrize(
    ("task", "key", "limits"),
    [
        ("classification", "trainer.backbone_lr_scale", "(0, 10]"),
        ("detection", "trainer.backbone_lr_scale", "(0, 10]"),
        ("embedding", "task.margin", "(0, 4)"),
    ],
)
def test_a_number_that_may_be_null(task: str, key: str, limits: str) -> None:
    group, name = key.split(".")
    for value, wanted in (("null", None), ("0.5", 0.5), ("1", 1)):
        assert load_config([f"task={task}", f"{key}={value}"])[group][name] == wanted
    for value in ("0", "11", "auto"):
        with pytest.raises(UserError, match=re.escape(f"{key}={value}: choose from {limits}, null")):
            load_config([f"task={task}", f"{key}={value}"])


def test_a_tilde_after_the_equals_sign_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line only: not in what a run or a checkpoint says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["predict", "ckpt=~/my run", "dogs.data.root=~/a=b", "name=x~/y", "push", "~seed"])
    wanted = [f"ckpt={tmp_path}/my run", f"dogs.data.root={tmp_path}/a=b", "name=x~/y", "push", "~seed"]
    assert arguments("predict") == wanted
    assert load_config(["data.root=~/x"])["data"]["root"] == "~/x"
