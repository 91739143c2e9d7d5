"""A backbone that starts from weights learns slower than the new layers on it, one from scratch as fast."""

from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from backbones.weights import build_mobilenet_v1
from tasks.detection.task import DetectionTask
from tasks.engine.checkpoint import load_checkpoint
from tasks.engine.config import load_config
from tasks.engine.train import prepare, train
from tasks.run import execute
from tests.backbones.test_weights import keras_file
from tests.conftest import untrained


@pytest.mark.parametrize(
    ("weights", "override", "share"),
    [
        (True, (), 0.1),
        (False, (), 1.0),
        (True, ("trainer.backbone_lr_scale=0.5",), 0.5),
        (False, ("trainer.backbone_lr_scale=0.5",), 0.5),
    ],
)
def test_the_backbones_learning_rate(weights: bool, override: tuple[str, ...], share: float, tmp_path: Path) -> None:
    start = (f"backbone.weights={keras_file(tmp_path / 'keras.h5', 0.25)}",) if weights else ()
    config = load_config(["task=detection", "detector=pan", "backbone.alpha=0.25", *start, *override], "config")
    module = DetectionTask(config, ["a", "b"])
    backbone = set(module.model.backbone.parameters())
    groups = module.parameter_groups()
    assert {p for group in groups for p in group["params"]} == set(module.model.parameters())
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.004 * (share if parameter in backbone else 1))


@pytest.mark.parametrize(
    ("weights", "override"), [(True, ()), (True, ("trainer.freeze_early_layers=false",)), (False, ())]
)
def test_early_layers_keep_their_weights(
    weights: bool, override: tuple[str, ...], scenes: Path, tmp_path: Path
) -> None:
    file = keras_file(tmp_path / "keras.h5", 0.25)
    start = (f"backbone.weights={file}",) if weights else ()
    settings = (
        "backbone.alpha=0.25",
        "task.resolution=64",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.max_epochs=1",
    )
    data = ("data=demo_scenes", f"data.root={scenes}", "data.train=24", "data.val=8", f"paths.runs={tmp_path}")
    execute(["task=detection", *data, *settings, *start, *override, "name=run", "trainer.warmup_fraction=0"])
    state = load_checkpoint(tmp_path / "detection" / "run")["state_dict"]
    before = build_mobilenet_v1(alpha=0.25, weights=str(file))
    early = {name for i in range(4) for name in before.state_dict() if name.startswith(f"blocks.{i}.")}
    kept = {n for n, value in before.state_dict().items() if torch.equal(state[f"model.backbone.{n}"], value)}
    statistics = {name for name, _ in before.named_buffers()}  # which adapt to the data
    assert kept - statistics == ((early if weights and not override else set()) - statistics)


@pytest.mark.parametrize(("backbone", "name"), [("timm", "mobilenetv3_small_050"), ("torchvision", "squeezenet1_1")])
def test_early_layers_that_are_not_known_cannot_be_frozen(backbone: str, name: str) -> None:
    given = ["task=detection", "detector=ssd", f"backbone={backbone}", f"backbone.name={name}"]
    config = load_config([*given, "trainer.freeze_early_layers=true"])
    with pytest.raises(UserError, match=f"freeze_early_layers=true: backbone={backbone} does not define") as error:
        DetectionTask(config, ["a", "b"])
    assert "\n" not in str(error.value)
    DetectionTask(config, ["a", "b"], load_weights=False)  # but a checkpoint of a run that had it is read


def test_random_weights_are_not_frozen(scenes: Path, tmp_path: Path) -> None:
    given = [*TINY, f"data.root={scenes}", f"paths.runs={tmp_path}", "backbone.pretrained=false"]
    with pytest.raises(UserError, match="freeze_backbone=true freezes random weights: give") as e:
        train(load_config([*given, "trainer.freeze_backbone=true"]))
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


TINY = ("task=detection", "backbone.alpha=0.25", "task.resolution=64", "data.train=24", "data.val=8", "data.workers=0")


def test_a_run_that_is_started_from_counts_as_weights(scenes: Path, tmp_path: Path) -> None:
    given = [*TINY, f"data.root={scenes}"]
    run = untrained(tmp_path / "run", *given)
    _, module = prepare(load_config([*given, f"ckpt={run}"]))
    backbone = module.model.backbone
    own = set(backbone.parameters())
    assert all(g["lr"] == pytest.approx(0.0004) for g in module.parameter_groups() if own & {*g["params"]})
    early = {p for layer in backbone.early_layers() for p in layer.parameters()}
    assert {p for p in own if not p.requires_grad} == early != set()


def test_weights_of_a_run_are_looked_through_as_they_were_trained(scenes: Path, tmp_path: Path) -> None:
    """Padding, epsilon and normalization come with them; with others the network would compute something else."""
    given = [*TINY, f"data.root={scenes}"]
    odd = ("backbone.padding=symmetric", "backbone.norm_eps=0.01")
    run = untrained(tmp_path / "run", *given, *odd)
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["suite"]["backbone"] |= {"normalization": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], "pretrained": True}
    torch.save(content, run / "checkpoints" / "best.ckpt")
    _, module = prepare(load_config([*given, f"ckpt={run}"]))
    assert (module.resolved["padding"], module.resolved["norm_eps"]) == ("symmetric", 0.01)
    assert module.resolved["normalization"] == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert module.resolved["pretrained"] is True  # how the first of several runs started
    torch.testing.assert_close(module.model.mean.flatten() / 255, torch.tensor([0.1, 0.2, 0.3]))
    _, other = prepare(load_config([*given, f"ckpt={run}", "backbone.padding=same"]))
    assert other.resolved["padding"] == "same"  # what is given stays


def test_a_run_of_another_backbone_is_no_start(scenes: Path, tmp_path: Path) -> None:
    given = [*TINY, f"data.root={scenes}"]
    run = untrained(tmp_path / "run", *given)
    with pytest.raises(UserError, match="its backbone differs; give the same backbone settings"):
        prepare(load_config([*given, "backbone.alpha=0.5", f"ckpt={run}"]))
