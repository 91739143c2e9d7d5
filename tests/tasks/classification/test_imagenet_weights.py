"""Weights that come with ImageNet's classifier, on folders of photographs."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from backbones.errors import UserError
from backbones.weights import build_mobilenet_v1
from data.crops import center_view
from data.images import read_image
from tasks import predict
from tasks.classification.imagenet import imagenet_rows
from tasks.engine.config import load_config
from tasks.engine.options import locate


def test_labels_are_found_among_imagenets_classes() -> None:
    assert imagenet_rows(["n02085620-Chihuahua", "Siberian_husky", "toy poodle", "tench"]) == [151, 250, 265, 0]
    assert imagenet_rows(["tench", "no such class"]) is None
    assert imagenet_rows(["tench", "n01440764"]) is None  # one class twice
    assert imagenet_rows(["tub", "bathtub", "n02012849", "n03126707"]) == [876, 435, 134, 517]
    for name in ("crane", "Cardigan", "maillot"):  # two classes each
        assert imagenet_rows([name]) is None


def test_a_model_is_measured_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the top-1 of timm's own network among the folders' classes."""
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv1_100").eval()
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    classes, rows = ["n01440764", "n02085620", "tabby"], [0, 151, 281]
    generator, right, total = torch.Generator().manual_seed(1), 0, 0
    for row, name in enumerate(classes):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = torch.randint(0, 255, (7, 7, 3), dtype=torch.uint8, generator=generator).numpy()
            path = tmp_path / "val" / name / f"{i}.png"
            Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC).save(path)
            view = center_view(read_image(path, 256)[0], 0.875, 224)
            with torch.inference_mode():
                logits = network(view[None] / 127.5 - 1)[0, rows]
            right, total = right + (int(logits.argmax()) == row), total + 1
    data = [f"data.root={tmp_path}", "data=folders", "data.train=val", "data.val=val", "data.workers=0"]
    settings = [f"backbone.weights={tmp_path / 'timm.pth'}", *data, "mode=test", "trainer.precision=32"]
    predict.test_weights(settings)
    shown = capsys.readouterr().out
    assert f"{right / total:.4f}" in next(line for line in shown.splitlines() if "top1" in line)
    predict.test_weights([f"backbone.weights={tmp_path / 'timm.pth'}", f"data.root={tmp_path / 'val'}", "mode=test"])
    assert "9 images of" in capsys.readouterr().out  # all images, as there are no splits
    assert not (tmp_path / "val" / "splits.json").exists()
    (tmp_path / "val" / "tabby").rename(tmp_path / "val" / "my cat")
    with pytest.raises(UserError, match="no classifier for the classes of the data; train"):
        predict.test_weights(settings)


def test_weights_of_another_activation_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(["task=classification", "backbone.alpha=0.25", "backbone.activation=relu", "data.root=unused"])
    module = locate(config, "task")(config, ["a", "b"], load_weights=False)
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "a.ckpt")
    build_mobilenet_v1(alpha=0.25, activation="relu", weights=str(tmp_path / "a.ckpt"))
    assert "activation" not in caplog.text
    build_mobilenet_v1(alpha=0.25, activation="relu6", weights=str(tmp_path / "a.ckpt"))
    assert "was trained with activation=relu; activation=relu6 costs accuracy" in caplog.text
