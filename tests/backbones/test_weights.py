"""Pretrained weights: their file layouts, and the settings that belong to them."""

import copy
import http.server
import itertools
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
from torchvision.models import googlenet

from backbones.base import IMAGENET, Normalization
from backbones.download import download, reachable
from backbones.errors import UserError
from backbones.mobilenet_v1 import MobileNetV1
from backbones.timm import build_timm
from backbones.torchvision import build_torchvision
from backbones.weights import (
    Weights,
    build_mobilenet_v1,
    fetch_pretrained,
    has_folded_norms,
    load_weights,
    read_weights,
    unfold_at_first_batch,
    unfold_norms,
)
from tasks.classification.model import Classifier
from tasks.engine.checkpoint import load_checkpoint
from tests.conftest import shared


@pytest.mark.parametrize(("name", "alpha"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_timm_outputs(name: str, alpha: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    for module in theirs.modules():  # statistics that reveal a wrong epsilon or order
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.3, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")

    ours = Classifier(build_mobilenet_v1(alpha=alpha, weights=str(tmp_path / "weights.pth")), 7).eval()
    ours.head.load_state_dict(read_weights(tmp_path / "weights.pth").classifier)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() < 1e-5


def test_padding_and_epsilon_belong_to_the_weights(tmp_path: Path) -> None:
    torch.save(timm.create_model("mobilenetv1_100").state_dict(), tmp_path / "timm.pth")
    settings = build_mobilenet_v1(weights=str(tmp_path / "timm.pth")).resolved
    assert (settings["padding"], settings["norm_eps"]) == ("symmetric", 1e-5)
    settings = build_mobilenet_v1(alpha=0.25, weights=str(keras_file(tmp_path / "keras.h5", 0.25))).resolved
    assert (settings["padding"], settings["norm_eps"]) == ("same", 1e-3)


def keras_file(path: Path, alpha: float) -> Path:
    """A file of random values in the layout of Keras applications."""
    rng = np.random.default_rng(0)
    depths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    channels = [max(8, int(depth * alpha)) for depth in depths]
    with h5py.File(path, "w") as file:

        def layer(name: str, kernel: str, shape: tuple[int, ...], outputs: int) -> None:
            file[f"{name}/{name}/{kernel}:0"] = rng.normal(size=shape).astype(np.float32) * 0.1
            for key in ("gamma", "beta", "moving_mean", "moving_variance"):
                file[f"{name}_bn/{name}_bn/{key}:0"] = rng.uniform(0.5, 1, outputs).astype(np.float32)

        layer("conv1", "kernel", (3, 3, 3, channels[0]), channels[0])
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels), start=1):
            layer(f"conv_dw_{i}", "depthwise_kernel", (3, 3, inputs, 1), inputs)
            layer(f"conv_pw_{i}", "kernel", (1, 1, inputs, outputs), outputs)
    return path


def test_keras_kernels_land_where_they_belong(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "keras.h5", 0.25)
    state = build_mobilenet_v1(alpha=0.25, weights=str(path)).state_dict()
    with h5py.File(path) as file:
        kernel = file["conv_dw_3/conv_dw_3/depthwise_kernel:0"][()]
        np.testing.assert_array_equal(state["blocks.3.0.conv.weight"][5, 0], kernel[:, :, 5, 0])
        kernel = file["conv1/conv1/kernel:0"][()]
        np.testing.assert_array_equal(state["blocks.0.conv.weight"][2, 1], kernel[:, :, 1, 2])
        variance = file["conv_pw_13_bn/conv_pw_13_bn/moving_variance:0"][()]
        np.testing.assert_array_equal(state["blocks.13.1.norm.running_var"], variance)


def test_real_weights_see_a_blood_cell_differently_than_noise() -> None:
    """The published weights give activations of a plausible size only with their own padding and statistics."""
    network = build_mobilenet_v1(alpha=0.25, weights=str(shared("weights/mobilenet_2_5_224_tf_no_top.h5"))).eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 224, 224))[-1]
    assert features.shape == (1, 256, 7, 7)
    assert 0 < features.mean() < 3


def test_folded_normalization_is_unfolded_by_the_first_batch(caplog: pytest.LogCaptureFixture) -> None:
    """With statistics of 0 and 1, training would normalize, and so change, the folded features."""
    torch.manual_seed(0)
    source = MobileNetV1(0.25)
    for name, parameter in source.named_parameters():
        if name.endswith("norm.bias"):
            parameter.data.uniform_(-0.5, 1.5)
    network = MobileNetV1(0.25)
    load_weights(network, Weights("folded.h5", source.state_dict()))
    assert "folded.h5 has folded normalization" in caplog.text
    images = torch.randn(8, 3, 128, 128)
    unfold_at_first_batch(network)
    with torch.no_grad():
        truth = network.eval()(images)[0]
    assert has_folded_norms(network)  # until it is trained
    trained = network.train()(images)[0]
    with torch.no_grad():
        after = network.eval()(images)[0]
    assert (trained - truth).norm() < 0.01 * truth.norm()  # 0.83 without unfolding
    assert (after - truth).norm() < 0.01 * truth.norm()
    before = copy.deepcopy(network.state_dict())
    unfold_at_first_batch(network)
    network.eval()(images)
    for name, tensor in network.state_dict().items():  # unfolded once
        assert torch.equal(tensor, before[name])
    assert not has_folded_norms(MobileNetV1(0.25))  # a new network is not folded


def test_another_alpha_is_named_with_each_tensor(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "keras.h5", 0.25)
    with pytest.raises(UserError) as error:
        load_weights(build_mobilenet_v1(alpha=0.5), read_weights(path))
    message = str(error.value)
    assert "backbone.alpha=0.25" in message
    assert "blocks.13.1.norm.running_var is (256,), not (512,)" in message
    assert "135 tensors differ" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.h5", None, "there is no file"),
        ("text.h5", b"not a file of weights", "cannot be read"),
        ("text.pth", b"not a file of weights", "cannot be read"),
    ],
)
def test_unreadable_weights(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("kind", ["link", "soft link", "storage", "virtual", "shape", "chunk", "text"])
def test_a_keras_file_holds_what_it_says(kind: str, tmp_path: Path) -> None:
    """HDF5 can link to other files, and declare data that it does not hold."""
    name, path = "conv1/conv1/kernel:0", keras_file(tmp_path / "a.h5", 0.25)
    other = keras_file(tmp_path / "b.h5", 0.25)
    shape = (3, 3, 3, 8)
    with h5py.File(path, "a") as file:
        del file[name]
        if kind == "link":
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/conv_dw_1/conv_dw_1/depthwise_kernel:0")
        elif kind == "storage":
            file.create_dataset(name, shape, np.float32, external=[(str(other), 0, 864)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.float32)
            layout[...] = h5py.VirtualSource(str(other), name, shape)
            file.create_virtual_dataset(name, layout)
        elif kind == "chunk":
            file.create_dataset(name, shape, np.float32, maxshape=(None,) * 4, chunks=(64, 64, 64, 64))
        elif kind == "text":
            file[name] = ["x" * 1000] * 8
        else:
            file.create_dataset(name, (1 << 20, 1 << 20), np.float32)
    words = "has a link to elsewhere," if "link" in kind else "does not itself contain"
    with pytest.raises(UserError, match=rf"{words} conv1/conv1/kernel"):
        read_weights(path)


@pytest.mark.parametrize("name", ["mobilenet_2_5_224_tf_no_top.h5", "mobilenet_7_5_192_tf_no_top.h5"])
def test_weights_as_they_lie_there(name: str) -> None:
    """One of them is packed."""
    weights = read_weights(shared(f"weights/{name}"))
    assert all(value.isfinite().all() for value in weights.state.values())


def test_a_packed_keras_file(tmp_path: Path) -> None:
    """In chunks, compressed, as other programs than Keras write it."""
    path = keras_file(tmp_path / "a.h5", 0.25)
    plain = read_weights(path).state
    with h5py.File(path, "a") as file:
        name = "conv1/conv1/kernel:0"
        values = file[name][()]
        del file[name]
        file.create_dataset(name, data=values, compression="gzip", shuffle=True, chunks=(3, 3, 3, 4))
    packed = read_weights(path).state
    assert all(torch.equal(packed[key], value) for key, value in plain.items())


@pytest.mark.parametrize(
    "odd", [torch.zeros(1).expand(1 << 40), torch.eye(3).to_sparse(), torch.ones(2, device="meta")]
)
def test_weights_are_stored_tensors(odd: torch.Tensor, tmp_path: Path) -> None:
    torch.save(timm.create_model("mobilenetv1_100").state_dict() | {"bn1.weight": odd}, tmp_path / "timm.pth")
    with pytest.raises(UserError, match="its weights are not named tensors"):
        read_weights(tmp_path / "timm.pth")


def test_a_compressed_file_is_not_unpacked(tmp_path: Path) -> None:
    """A small one could unpack to any size."""
    torch.save({"conv_stem.weight": torch.zeros(100_000)}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    for read in (load_checkpoint, read_weights):
        with pytest.raises(UserError, match="it is compressed"):
            read(tmp_path / "small.pth")


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="neither a Keras"):
        read_weights(tmp_path / "other.pth")


@pytest.fixture
def server(tmp_path: Path, online: None) -> Iterator[str]:
    """A web server on loopback over tmp_path/www; files whose name has `cut` end half way."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def copyfile(self, source: Any, output: Any) -> None:
            content = source.read()
            output.write(content[: len(content) // 2] if "cut" in self.path else content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_pretrained_is_downloaded_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "mobilenet_2_5_160_tf_no_top.h5"  # 160 is the nearest public size to 170
    keras_file(tmp_path / "www" / name, 0.25)
    network = build_mobilenet_v1(alpha=0.25, pretrained=True, pretrained_url=server, resolution=170)
    assert network.resolved["padding"] == "same"
    cached = tmp_path / "cache" / "mobilenets" / name
    assert cached.read_bytes() == (tmp_path / "www" / name).read_bytes()
    (tmp_path / "www" / name).unlink()
    assert fetch_pretrained(0.25, 170, server) == cached


def test_pretrained_auto_starts_from_scratch_where_no_server_answers(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so; a host name that cannot be resolved does not block."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    keras_file(tmp_path / "www" / "mobilenet_2_5_160_tf_no_top.h5", 0.25)
    start = time.monotonic()
    for url, alpha in (("http://127.0.0.1:9", 0.25), ("http://nowhere.invalid", 0.25), (server, 0.3)):
        caplog.clear()
        network = build_mobilenet_v1(alpha=alpha, pretrained="auto", pretrained_url=url, resolution=160)
        assert network.resolved["pretrained"] is False
        assert "no ImageNet weights, training starts from scratch" in caplog.text
    assert time.monotonic() - start < 60
    network = build_mobilenet_v1(alpha=0.25, pretrained="auto", pretrained_url=server, resolution=160)
    assert network.resolved["pretrained"] is True
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what was downloaded is still used
    again = build_mobilenet_v1(alpha=0.25, pretrained="auto", pretrained_url=server, resolution=160)
    assert torch.equal(*(next(n.parameters()) for n in (again, network)))


def test_what_is_no_file_of_weights_is_not_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A captive portal answers every address with its login page; the cache's path may be a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (tmp_path / "www" / "mobilenet_2_5_160_tf_no_top.h5").write_text("<html>log in</html>")
    for words in ("sent no weights", "cannot be downloaded"):
        network = build_mobilenet_v1(alpha=0.25, pretrained="auto", pretrained_url=server, resolution=160)
        assert network.resolved["pretrained"] is False
        assert words in caplog.text
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "www" / "mobilenet_2_5_160_tf_no_top.h5"))
    assert not list((tmp_path / "cache" / "mobilenets").iterdir())


def test_servers_behind_a_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("http_proxy", server.removeprefix("http://"))
    assert reachable("http://nowhere.invalid/x")  # only the proxy must answer
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")
    assert not reachable("http://nowhere.invalid/x")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable(server)


def test_a_download_that_ends_early_leaves_nothing(server: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "cut.bin").write_bytes(bytes(100_000))
    with pytest.raises(UserError, match="cannot be downloaded"):
        download(f"{server}/cut.bin", tmp_path / "out" / "cut.bin")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_download_goes_through_no_link(server: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "a.bin").write_bytes(bytes(100_000))
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "a.bin.part").symlink_to(tmp_path / "victim")
    download(f"{server}/a.bin", tmp_path / "a.bin", keep=True)
    assert (tmp_path / "a.bin").read_bytes() == bytes(100_000)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_offline_and_unpublished(tmp_path: Path, online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be downloaded .*; put the file at .*mobilenet_1_0_224") as error:
        fetch_pretrained(1.0, 224, "http://127.0.0.1:9")  # nothing listens there
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"exist for alpha \[0.25, 0.5, 0.75, 1.0\], not 0.6"):
        fetch_pretrained(0.6, 224, "http://127.0.0.1:9")


def test_weights_of_other_libraries_must_fit(tmp_path: Path) -> None:
    """timm itself would load what fits, and start from scratch if nothing does."""
    small = timm.create_model("mobilenetv3_small_050")
    torch.save(small.state_dict(), tmp_path / "small.pth")
    backbone = build_timm(name="mobilenetv3_small_050", weights=str(tmp_path / "small.pth"), strides=(16, 32))
    (kept,) = (tensor for name, tensor in backbone.state_dict().items() if name.endswith("conv_stem.weight"))
    assert torch.equal(kept, small.state_dict()["conv_stem.weight"])

    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "small.pth").read_bytes()[:1000])
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 100)
    builders: dict[str, Any] = {"mobilenetv3_small_050": build_timm, "squeezenet1_1": build_torchvision}
    for name, build in builders.items():
        for file, words in {
            "other.pth": f"other.pth does not fit (timm|torchvision)'s {name}",
            "damaged.pth": "damaged.pth cannot be read: it is damaged, or holds no weights",
            "damaged.safetensors": "damaged.safetensors cannot be read: it is damaged",
            "absent.pth": "there is no file .*absent.pth",
        }.items():
            with pytest.raises(UserError, match=words):
                build(name=name, weights=str(tmp_path / file))


def test_unfolding_leaves_frozen_layers_frozen() -> None:
    torch.manual_seed(0)
    network = MobileNetV1(0.25)
    frozen = network.early_layers()
    for layer in frozen:
        layer.eval()
    unfold_norms(network, torch.rand(2, 3, 64, 64))
    still = {module for layer in frozen for module in layer.modules()}
    assert {module for module in network.modules() if not module.training} == still


def test_googlenet_sees_what_torchvision_makes_of_an_image(tmp_path: Path) -> None:
    """Its forward maps ImageNet's normalization to that of the weights, before the layers that are used here."""
    torch.manual_seed(0)
    theirs = googlenet(init_weights=False, transform_input=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build_torchvision(name="googlenet", weights=str(tmp_path / "weights.pth"), strides=(2,)).eval()
    assert build_torchvision(name="googlenet").normalization == IMAGENET
    found: list[torch.Tensor] = []
    theirs.conv1.register_forward_hook(lambda *given: found.append(given[-1]))
    image = torch.rand(2, 3, 64, 64)

    def normalised(normalization: Normalization) -> torch.Tensor:
        mean, std = (torch.tensor(row).view(3, 1, 1) for row in normalization)
        return (image - mean) / std

    with torch.inference_mode():
        theirs(normalised(IMAGENET))
        torch.testing.assert_close(ours(normalised(ours.normalization))[0], found[0], rtol=1e-4, atol=1e-4)
