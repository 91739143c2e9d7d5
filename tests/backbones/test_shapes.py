"""Forward passes that compute only shapes, against real forward passes."""

import copy

import pytest
import torch
from torch import nn

from backbones.mobilenet_v1 import MobileNetV1
from backbones.shapes import dummy_image, shapes_only
from backbones.timm import build_timm
from backbones.torchvision import build_torchvision


def networks() -> dict[str, nn.Module]:
    odd = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding="valid", dilation=(2, 1)),
        nn.BatchNorm2d(8),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 4, 3, padding="same", dilation=3),
        nn.ConvTranspose2d(4, 4, 2, 2),
        nn.Hardswish(inplace=True),
        nn.AdaptiveAvgPool2d(6),
        nn.Linear(6, 7),
    )
    return {
        "mobilenet": MobileNetV1(0.25, strides=(8, 16, 32)),
        "squeezenet": build_torchvision(name="squeezenet1_1", strides=(16, 32)),
        "odd": odd,
    }


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("resolution", [64, 75])
def test_shapes_are_those_of_a_pass_and_the_network_stays_as_it_is(name: str, resolution: int) -> None:
    network = networks()[name].train()
    before = copy.deepcopy(network.state_dict())
    with shapes_only(network):
        found = network(dummy_image(network, resolution))
    with torch.no_grad():
        wanted = copy.deepcopy(network).eval()(torch.zeros(1, 3, resolution, resolution))
    shapes = [[x.shape for x in maps] if isinstance(maps, list) else maps.shape for maps in (found, wanted)]
    assert shapes[0] == shapes[1]
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_network_that_is_compiled_is_not_compiled_for_it() -> None:
    network = MobileNetV1(0.25)

    def compiled(*_: object) -> None:
        raise AssertionError("the compiled network was called")

    network._compiled_call_impl = compiled
    with shapes_only(network):
        assert network(dummy_image(network, 64))[-1].shape == (1, 256, 2, 2)
    assert network._compiled_call_impl is compiled


def test_a_timm_model_whose_maps_end_with_channels() -> None:
    backbone = build_timm(name="mambaout_femto", strides=(8, 16, 32))
    assert backbone.sizes(64) == [8, 4, 2]
    assert [x.shape[1] for x in backbone(torch.zeros(1, 3, 64, 64))] == list(backbone.channels)
