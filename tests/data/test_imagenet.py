"""ImageNet's own layout, and errors for a wrong one."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import TensorDataset

from backbones.errors import UserError
from data.base import Split
from data.imagenet import ImageNetData
from tasks.run import execute

# number, wnid, words, children: numbers are in another order than wnids, and the last one is no class
SYNSETS = (
    (1, "n02119789", "kit fox, Vulpes macrotis", 0),
    (2, "n02100735", "English setter", 0),
    (3, "n01440764", "tench, Tinca tinca", 0),
    (4, "n02083346", "canine, canid", 2),
)
SHADES = {"n02119789": 40, "n02100735": 120, "n01440764": 220}
TRUTH = [3, 1, 2, 2, 3]


def image(path: Path, wnid: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 40), (SHADES[wnid],) * 3).save(path, "JPEG")


def write_devkit(root: Path) -> None:
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    (root / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
    synsets = np.array([tuple(row) for row in SYNSETS], kind).reshape(-1, 1)
    savemat(root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat", {"synsets": synsets})
    truth = root / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{number}\n" for number in TRUTH))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "imagenet"
    write_devkit(folder)
    for wnid in SHADES:
        for i in range(4):
            image(folder / "train" / wnid / f"{wnid}_{i}.JPEG", wnid)
    for i, number in enumerate(TRUTH, start=1):
        image(folder / "val" / f"ILSVRC2012_val_{i:08d}.JPEG", SYNSETS[number - 1][1])
    return folder


def data(root: Path) -> ImageNetData:
    settings: dict[str, Any] = {"train": "train", "val": "val", "devkit": "ILSVRC2012_devkit_t12"}
    return ImageNetData(str(root), 32, workers=0, batch_size=8, **settings)


def test_a_million_images_are_counted_in_full(root: Path) -> None:
    found = data(root)
    found.datasets["train"] = TensorDataset(torch.empty(1_281_167))
    assert found.summary() == "1281167 train images"


def test_train_and_val_agree_on_what_a_class_is(root: Path) -> None:
    found = data(root)
    assert found.labels == ["n01440764 tench", "n02100735 English setter", "n02119789 kit fox"]
    shades = [SHADES[label.split()[0]] for label in found.labels]
    for loader, count in ((found.train_dataloader(), 8), (found.val_dataloader(), 5)):
        batch = next(iter(loader))
        assert len(batch.labels) == count
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            assert float(image.float().mean()) == pytest.approx(shades[label], abs=2)
    flat = {s.path.name: s.label for s in found.samples("val")}
    for name, label in flat.items():  # the common layout, with a folder for each class
        wnid = found.wnids[label]
        (root / "val" / wnid).mkdir(exist_ok=True)
        shutil.move(root / "val" / name, root / "val" / wnid / name)
    assert {s.path.name: s.label for s in data(root).samples("val")} == flat


def test_what_is_not_right_is_said_in_one_line(root: Path) -> None:
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"

    def refused(words: str, split: Split = "val") -> None:
        with pytest.raises(UserError, match=words) as error:
            data(root).samples(split)
        assert "\n" not in str(error.value)

    truth.write_text("3\n1\n")
    refused("val has 5 images, .*ground_truth.txt 2 lines")
    truth.write_text("9\n")
    refused("ground_truth.txt cannot be read: 9 is not the number of a class")
    truth.unlink()
    refused("ground_truth.txt cannot be read: No such file")
    (root / "train" / "n02119789").rename(root / "train" / "n99999999")
    refused(r"n02119789 is missing, but in .*meta\.mat", "train")
    (kit / "meta.mat").write_bytes(b"no mat")
    refused("meta.mat is not ImageNet's list of synsets")
    (kit / "meta.mat").unlink()
    refused(r"there is no .*meta\.mat; it is in ILSVRC2012_devkit_t12\.tar\.gz")


def test_a_run(root: Path, tmp_path: Path) -> None:
    tiny = ("backbone.alpha=0.25", "task.resolution=32", "data.batch_size=4", "data.workers=0", "trainer.max_epochs=1")
    where = (f"data.root={root}", f"paths.runs={tmp_path / 'runs'}", "logger.images=0")
    content = execute(["experiment=imagenet", *tiny, *where])
    assert content["state"] == "finished"
