"""Classification through the commands: what a run leaves behind, stages, teachers, frozen backbones."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms.v2 import functional as F

from backbones.errors import UserError
from backbones.mobilenet_v1 import fold_norms
from backbones.weights import read_weights
from data.classification import ImageSet, Sample
from data.dogs import DogsData
from data.folders import FoldersData
from data.images import read_image
from tasks.classification.dogs import DogsTask
from tasks.classification.model import Classifier
from tasks.classification.task import ClassificationTask
from tasks.distill.load import load_teacher
from tasks.engine.config import load_config
from tasks.engine.stages import train_stages
from tasks.run import execute
from tests.conftest import ROOT, command, shared, spawn, untrained, wait_until

TINY = (
    *("backbone.alpha=0.25", "task.resolution=64", "data.batch_size=8", "data.workers=0"),
    *("trainer.log_every=1", "trainer.max_epochs=1", "trainer.precision=32", "trainer.progress_bar=false"),
)
WEIGHTS = "weights/mobilenet_2_5_224_tf_no_top.h5"


@pytest.mark.parametrize(("classes", "words"), [(7, "starting from the pretrained classifier"), (9, "is not used")])
def test_a_classifier_that_comes_with_the_weights(
    classes: int, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs: Any = timm.create_model("mobilenetv1_100", num_classes=7)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    settings = ("task=classification", f"backbone.weights={tmp_path / 'timm.pth'}", "backbone.alpha=1")
    config = load_config(settings, "config")
    with caplog.at_level("INFO"):
        module = ClassificationTask(config, [str(i) for i in range(classes)])
    assert words in caplog.text
    assert torch.equal(module.state_dict()["model.head.bias"], theirs.classifier.bias) == (classes == 7)


@pytest.fixture(scope="module")
def tree(dogs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's clean images as ImageFolder wants them, with one that cannot be read."""
    root = tmp_path_factory.mktemp("folders")
    shutil.copytree(dogs / "Images", root / "train")
    shutil.copytree(dogs / "Images", root / "val")
    next((root / "train").rglob("*.jpg")).write_bytes(b"torn")
    return root


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    mixing = ("task.mixup=0.2", "task.cutmix=1.0", "task.label_smoothing=0.1")
    result = command(
        *("run", "task=classification", *TINY, *mixing, f"data.root={tree}"),
        *(f"paths.runs={runs}", "name=tiny", "data.max_bad=0.05"),
    )
    assert result.returncode == 0, result.stderr
    assert "skipped 1 unreadable images" in result.stdout
    return runs / "classification" / "tiny"


def test_a_run_leaves_accuracies_and_images(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["primary"] == metrics["top1"] <= metrics["top5"]
    per_class = [v for k, v in metrics.items() if k.startswith("top1/")]
    assert len(per_class) == 12
    assert np.mean(per_class) == pytest.approx(metrics["class_mean"])
    events = EventAccumulator(str(run)).Reload().Tags()
    assert {"confusion", "mistakes", "predictions"} == set(events["images"])
    assert {"val/top1", "val/top5", "val/top1/n02110958-pug"} <= set(events["scalars"])
    assert Image.open(run / "mistakes.png").width > 400


def test_predict_and_test_mode_agree_with_the_run(run: Path, tree: Path, tmp_path: Path) -> None:
    result = command("predict", f"ckpt={run}", f"input={tree / 'val' / 'n02110958-pug'}", f"output={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    scores = [c["score"] for c in rows[0]["classes"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    result = command("predict", f"ckpt={run}", "mode=test")
    assert result.returncode == 0, result.stderr
    (line,) = [x for x in result.stdout.splitlines() if "top5 " in x]
    wanted = json.loads((run / "metrics.json").read_text())["metrics"]["top5"]
    assert float(line.split("│")[2]) == pytest.approx(wanted, abs=0.02)


def test_the_image_that_replaces_an_unreadable_one_counts_once(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(4):
            (tmp_path / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(tmp_path / split / "ab"[i % 2] / f"{i}.png")
    (tmp_path / "val" / "a" / "0.png").write_bytes(b"torn")
    data = FoldersData(str(tmp_path), 64, train="train", val="val", workers=0, batch_size=2)
    module = ClassificationTask(load_config(["task=classification", *TINY]), data.labels, load_weights=False).eval()
    module.build_metrics()
    with torch.no_grad():
        for batch in data.val_dataloader():
            module.update_metrics(batch)
    assert module.confusion().sum(dim=1).tolist() == [1, 2]
    paths = [mistake.path for mistake in module.mistakes.worst]
    assert len(paths) == len({*paths})


@pytest.mark.parametrize("share", [0.5, 0.875, 1.0])
def test_predict_sees_what_validation_sees(share: float, tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(120), np.arange(200)).astype(np.uint8)
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.png")
    config = load_config(["task=classification", *TINY, f"data.center_crop={share}"])
    module = ClassificationTask(config, ["a", "b"], load_weights=False)
    validation = ImageSet([Sample(tmp_path / "a.png", 0)], module.resolution, center_crop=share)[0]["image"]
    image, _ = read_image(tmp_path / "a.png", module.view_side)
    assert torch.equal(module.prepare_image(image), validation)


def test_costs_without_data() -> None:
    for arguments, madds, params in (
        (("task=classification", "backbone.alpha=0.5", "backbone.rho=0.714"), 76_525, 1_331_592),
        (("task=dogs", "task.resolution=192", "backbone.alpha=0.75"), None, 1_909_000),
    ):
        result = command("cost", *arguments, "format=json")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert madds is None or round(found["madds"] / 1000) == madds
        assert found["params"] == pytest.approx(params, abs=1000 if madds is None else 0)


def settings(dogs: Path, runs: Path, *more: str) -> list[str]:
    return [*TINY, f"data.root={dogs}", "data=dogs", "data.web_labels=web_labels.json", f"paths.runs={runs}", *more]


def test_stages_follow_each_other_and_resume(dogs: Path, tmp_path: Path) -> None:
    """The web set's copies of test images are left out; a run whose second stage is lost repeats that one alone."""
    weights = f"backbone.weights={shared(WEIGHTS)}"
    more = ("experiment=dogs_noisy", weights, "name=two", "task.resolution=128", "task.drop_near_test=0.94")
    content = execute(settings(dogs, tmp_path, *more))
    assert content["state"] == "finished"
    folder = tmp_path / "dogs" / "two"
    near = json.loads((folder / "1_noisy" / "drop_near_test.json").read_text())
    truth = json.loads((dogs / "web_truth.json").read_text())
    copies = {path for path, subject in truth.items() if subject.startswith("Images/")}
    assert near.keys() == copies  # below data.root, which may be moved

    stages = [yaml.safe_load((folder / name / "config.yaml").read_text()) for name in ("1_noisy", "2_clean")]
    assert [s["data"]["train"] for s in stages] == ["web", "list"]
    assert [s["task"]["loss"] for s in stages] == ["generalized", "cross_entropy"]
    assert stages[1]["ckpt"] == str(folder / "1_noisy")

    first = (folder / "1_noisy" / "metrics.json").read_bytes()
    shutil.rmtree(folder / "2_clean")
    with pytest.raises(UserError, match="used only if you confirm"):
        execute([f"resume={folder}"])
    again = execute([f"resume={folder}", weights])
    assert again["state"] == "finished"
    assert (folder / "1_noisy" / "metrics.json").read_bytes() == first
    assert (folder / "2_clean" / "checkpoints" / "best.ckpt").exists()


def test_an_untrained_network_compares_no_images(dogs: Path, tmp_path: Path) -> None:
    """To it all photographs are alike: each web image would be left out."""
    with pytest.raises(UserError, match=r"needs a pretrained network.* or task\.drop_near_test=0"):
        execute(settings(dogs, tmp_path, "task=dogs", "data.train=web"))
    assert not list(tmp_path.iterdir())


def test_stages_on_two_devices(dogs: Path, tmp_path: Path) -> None:
    """The second process begins each stage with the weights that the command line names, as the first does; and neither
    waits for the gradients of a frozen backbone.
    """
    more = ("experiment=dogs_noisy", f"backbone.weights={shared(WEIGHTS)}", "name=two", "trainer.limit_train_batches=2")
    devices = ("trainer.freeze_backbone=true", "trainer.devices=2", "trainer.accelerator=cpu")
    quick = ("task.drop_near_test=0", "logger.images=0")
    result = spawn("run", *settings(dogs, tmp_path, *more, *devices, *quick))
    assert result.returncode == 0, result.stderr
    for stage in ("1_noisy", "2_clean"):
        assert json.loads((tmp_path / "dogs" / "two" / stage / "metrics.json").read_text())["state"] == "finished"


def test_a_killed_stage_goes_on(dogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL in the middle of the first of two stages: what it had done is kept, and the second follows."""
    more = ("experiment=dogs_noisy", "name=killed", "trainer.max_epochs=4", "task.drop_near_test=0", "logger.images=0")
    folder = tmp_path / "dogs" / "killed"
    last = folder / "1_noisy" / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "tasks.run", *settings(dogs, tmp_path, *more)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(last.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = torch.load(last, weights_only=True)
    assert before["epoch"] < 3

    assert execute([f"resume={folder}"])["state"] == "finished"
    for stage in ("1_noisy", "2_clean"):
        metrics = json.loads((folder / stage / "metrics.json").read_text())
        assert (metrics["state"], metrics["epoch"], metrics["pretrained"]) == ("finished", 4, False)
        assert "come from ImageNet" in metrics["note"]
    # the drawn images do not, but were given as data=dogs
    assert capsys.readouterr().out.count("note: Stanford Dogs' images come from ImageNet") == 2
    steps = [e.step for e in EventAccumulator(str(folder / "1_noisy")).Reload().Scalars("train/loss")]
    kept = [step for step in steps if step < before["global_step"]]
    assert kept == list(range(before["global_step"]))  # each was done once


def test_a_stage_may_freeze_what_the_one_before_has_learned(dogs: Path, tmp_path: Path) -> None:
    overrides = settings(dogs, tmp_path, "task=dogs", "backbone.pretrained=false", "trainer.limit_train_batches=1")
    config = load_config(overrides) | {"stages": {"a": [], "b": ["trainer.freeze_backbone=true"]}}
    assert train_stages(config, overrides)["state"] == "finished"


def test_a_mistake_in_a_stage_is_found_before_the_first(dogs: Path, tmp_path: Path) -> None:
    overrides = settings(dogs, tmp_path, "experiment=dogs_noisy")
    config = load_config(overrides) | {"stages": {"a": ["seed=1"], "b": ["task.lss=1"]}}
    with pytest.raises(UserError, match=r"unknown setting 'task\.lss'"):
        train_stages(config, overrides)
    assert not list(tmp_path.iterdir())


def test_a_frozen_backbone_does_not_drift(dogs: Path, tmp_path: Path) -> None:
    weights = shared(WEIGHTS)
    more = ("task=dogs", f"backbone.weights={weights}", "trainer.freeze_backbone=true", "name=held", "logger.images=0")
    execute(settings(dogs, tmp_path, *more))
    state = torch.load(tmp_path / "dogs" / "held" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in read_weights(weights).state.items():
        torch.testing.assert_close(state[f"model.backbone.{name}"], tensor, rtol=0, atol=0)
    torch.manual_seed(0)
    assert float(state["model.head.weight"].std()) > 0


def test_learning_rates_of_the_parts(dogs: Path, tmp_path: Path) -> None:
    more = ("task=dogs", "trainer.backbone_lr_scale=0.1", "name=rates", "logger.images=0", "trainer.optimizer=rmsprop")
    execute(settings(dogs, tmp_path, *more))
    path = tmp_path / "dogs" / "rates" / "checkpoints" / "last.ckpt"
    groups = torch.load(path, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert sorted(g["initial_lr"] for g in groups) == pytest.approx([0.0002, 0.0002, 0.002, 0.002])


def test_a_teacher_is_learned_from_and_not_saved(run: Path, tree: Path, tmp_path: Path) -> None:
    more = (
        f"teacher={run}",
        "distill.teacher_weight=1.0",
        "distill.temperature=2",
        "backbone.alpha=0.5",
        "logger.images=0",
    )
    place = (f"data.root={tree}", f"paths.runs={tmp_path}", "name=student", "data.max_bad=0.05")
    execute(["task=classification", *TINY, *more, *place])
    content = torch.load(tmp_path / "classification" / "student" / "checkpoints" / "best.ckpt", weights_only=True)
    assert not any("teacher" in name for name in content["state_dict"])
    count = sum(v.numel() for k, v in content["state_dict"].items() if k.endswith("conv.weight"))
    assert count < 900_000  # one backbone of alpha 0.5
    result = command("predict", f"ckpt={tmp_path / 'classification' / 'student'}", "mode=test", f"root={tree}")
    assert result.returncode == 0, result.stderr


def test_a_cache_is_of_the_images_that_train(dogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that leave out other web images have another cache file."""
    teacher = untrained(tmp_path / "teacher", "task=dogs", *settings(dogs, tmp_path))
    given = (f"ckpt={teacher}", f"teacher={teacher}", f"distill.cache={tmp_path / 'cache'}")
    more = ("task=dogs", "data.train=web", "data.views=2", *given)
    for name, own in (("a", slice(5)), ("b", slice(5, 10))):
        web = DogsData(str(dogs), 64, web_labels="web_labels.json").web_samples()
        near = {sample.path: 1.0 for sample in web[own]}
        monkeypatch.setattr(DogsTask, "drop_near_test", lambda *_, near=near: near)
        execute(settings(dogs, tmp_path, *more, f"name={name}", "logger.images=0"))
    known = [np.load(file)[..., -1].any(axis=1) for file in (tmp_path / "cache").glob("*.npy")]
    found = sorted((len(rows), bool(rows.any())) for rows in known)
    assert found == [(len(web) - 5, True), (len(web) - 5, True), (len(web), False)]


def test_the_steps_are_of_the_images_that_remain(dogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = DogsData(str(dogs), 64, web_labels="web_labels.json").web_samples()
    monkeypatch.setattr(DogsTask, "drop_near_test", lambda *_: {sample.path: 1.0 for sample in web[8:]})
    start = untrained(tmp_path / "start", "task=dogs", *settings(dogs, tmp_path))
    more = ("task=dogs", "data.train=web", f"ckpt={start}", "trainer.steps=5", "name=few", "logger.images=0")
    assert execute(settings(dogs, tmp_path, *more))["step"] == 5  # epochs of one batch


def test_a_run_goes_on_with_its_own_classes(tree: Path, tmp_path: Path) -> None:
    """A class in the place of another would take over its outputs."""
    shutil.copytree(tree, tmp_path / "data")
    place = (f"data.root={tmp_path / 'data'}", f"paths.runs={tmp_path}", "name=x", "data.max_bad=0.05")
    execute(["task=classification", *TINY, *place, "logger.images=0"])
    for split in ("train", "val"):
        min((tmp_path / "data" / split).iterdir()).rename(tmp_path / "data" / split / "zebra")
    with pytest.raises(UserError, match="classes are not those of the run: start a new run"):
        execute([f"resume={tmp_path / 'classification' / 'x'}", "trainer.max_epochs=2"])


def test_an_export_teaches_what_its_checkpoint_would() -> None:
    """An exported file gives probabilities."""
    pytest.importorskip("onnxruntime")
    run = ROOT / "tests" / "fixtures" / "0.2.0" / "runs" / "classification" / "tiny"
    names, images = ["blue", "green", "red"], torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    file = next(run.rglob("*.onnx"))
    found = [load_teacher(str(source), names, student(3), 32)(images).log_softmax(dim=1) for source in (run, file)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


def student(labels: int) -> Classifier:
    from backbones.mobilenet_v1 import MobileNetV1

    torch.manual_seed(0)
    return Classifier(MobileNetV1(0.25), labels).eval()


def test_an_onnx_teacher_says_what_the_network_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = fold_norms(student(4))
    path = tmp_path / "teacher.onnx"
    example = (torch.zeros(2, 3, 64, 64),)
    torch.onnx.export(network, example, str(path), dynamo=False, dynamic_axes={"x": {0: "batch"}}, input_names=["x"])
    with pytest.raises(UserError, match=r"does not say how images are normalized; set distill\.normalization"):
        load_teacher(str(path), ["a", "b", "c", "d"], student(4), 64)
    teacher = load_teacher(str(path), ["a", "b", "c", "d"], student(4), 64, "student")
    images = torch.randint(0, 256, (3, 3, 64, 64)).float()
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), network(network.preprocess(images)), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="has 4 classes, the data has 2"):
        load_teacher(str(path), ["a", "b"], student(2), 64, "half")
    torch.onnx.export(network, example, str(path), dynamo=False)  # with a fixed batch of two images
    teacher = load_teacher(str(path), ["a", "b", "c", "d"], student(4), 64, "student")
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), network(network.preprocess(images)), rtol=1e-3, atol=1e-4)


def test_a_timm_teacher_sees_its_own_size_and_normalization(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    looks = {"input_size": (3, 96, 96), "mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4), "num_classes": 3}
    timm.models.save_for_hf(network, str(tmp_path), {"pretrained_cfg": looks, "num_classes": 3})
    teacher = load_teacher(f"local-dir:{tmp_path}", ["a", "b", "c"], student(3), 64)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    pixels = F.resize(images.float() / 255, [96, 96], antialias=True)
    with torch.no_grad():
        expected = network(F.normalize(pixels, looks["mean"], looks["std"]))
    torch.testing.assert_close(teacher(images.float()), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="has 3 classes, the data has 2"):
        load_teacher(f"local-dir:{tmp_path}", ["a", "b"], student(2), 64)
    with pytest.raises(UserError, match="its weights cannot be obtained") as error:
        load_teacher(f"local-dir:{tmp_path / 'none'}", ["a", "b"], student(2), 64)
    assert "\n" not in str(error.value)


def test_teachers_that_cannot_be_had(run: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"no network")
    for source, words in (
        (tmp_path / "torn.onnx", "cannot be read"),
        (tmp_path / "absent.onnx", "there is no such file"),
        ("mobilenet_v99", "nor a network that timm knows"),
        (run, "has the classes"),
    ):
        with pytest.raises(UserError, match=words) as error:
            load_teacher(str(source), ["a", "b"], student(2), 64)
        assert "\n" not in str(error.value)


def test_one_class_and_no_data(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "train" / "n02110958-pug", tmp_path / "one" / "train" / "pug")
    for root, words in ((tmp_path / "one", r"has 1 class folders \(pug\)"), (tmp_path / "no", "there is no folder")):
        with pytest.raises(UserError, match=words) as error:
            execute(["task=classification", f"data.root={root}", *TINY, f"paths.runs={tmp_path}"])
        assert "\n" not in str(error.value)
