"""Every cost that the paper prints, from ../shared/reference's recount: multiply-adds (M) and parameters."""

from typing import Any

import pytest

from backbones.cost import Cost, measure_cost
from backbones.mobilenet_v1 import MobileNetV1
from tasks.classification.model import Classifier

EXACT = {  # alpha: (multiply-adds in M at 224, 192, 160, 128; parameters)
    1.0: (568.740, 418.122, 290.675, 186.401, 4_231_976),
    0.75: (325.400, 239.273, 166.397, 106.770, 2_585_560),
    0.5: (149.497, 109.970, 76.525, 49.160, 1_331_592),
    0.25: (41.030, 30.213, 21.059, 13.570, 470_072),
}


def classifier_cost(resolution: int = 224, **settings: Any) -> Cost:
    return measure_cost(Classifier(MobileNetV1(**settings), 1000), resolution)


@pytest.mark.parametrize("alpha", EXACT)
@pytest.mark.parametrize("column", range(4))
def test_alpha_by_resolution(alpha: float, column: int) -> None:
    cost = classifier_cost((224, 192, 160, 128)[column], alpha=alpha)
    assert round(cost.madds / 1e6, 3) == EXACT[alpha][column]
    assert cost.params == EXACT[alpha][4]


def test_table_2_shares() -> None:
    layers = classifier_cost().layers
    madds = sum(m for m, _ in layers.values())
    # The table leaves batch normalization and biases out of the parameters.
    classifier_bias = 1000
    kernels = sum(p for kind, (_, p) in layers.items() if not kind.startswith("norm")) - classifier_bias
    for kind, madds_share, params_share in (
        ("pointwise", 94.86, 74.59),
        ("depthwise", 3.06, 1.06),
        ("convolution", 1.91, 0.02),
        ("fully connected", 0.18, 24.33),
    ):
        assert round(100 * layers[kind][0] / madds, 2) == madds_share
        params = layers[kind][1] - (classifier_bias if kind == "fully connected" else 0)
        assert round(100 * params / kernels, 2) == pytest.approx(params_share, abs=0.011)


@pytest.mark.parametrize(("variant", "madds", "params"), [("conv", 4867.3, 29.294), ("shallow", 307.3, 2.888)])
def test_variants_of_tables_4_and_5(variant: str, madds: float, params: float) -> None:
    cost = classifier_cost(variant=variant)
    assert round(cost.madds / 1e6, 1) == madds
    assert round(cost.params / 1e6, 3) == params
