"""What a run says about its training curves."""

from typing import Literal

import pytest

from tasks.engine.diagnosis import Point, diagnose

RISING = [Point(i, 2 - i / 10, 0.05 * i) for i in range(1, 11)]
FLAT = [Point(i, 1 / i, min(0.3, 0.1 * i)) for i in range(1, 11)]
CARDS = [0.474, 0.5, 0.573, 0.606, 0.603, 0.625, 0.621, 0.622, 0.627, 0.636, 0.636]  # flat only at the end
RACCOON = [0.538, 0.546, 0.533, 0.55, 0.548, 0.563, 0.563, 0.549, 0.545, 0.55, 0.553]


def measured(values: list[float]) -> list[Point]:
    """Validations from a third of the training on, with a loss that falls."""
    return [Point(36 + 6.4 * i, 1.5 - 0.02 * i, value) for i, value in enumerate(values)]


FALLING = [Point(i, 1 / i, 0.5 - 0.02 * abs(i - 4)) for i in range(1, 11)]


@pytest.mark.parametrize(
    ("history", "mode", "words"),
    [
        (RISING, "max", "still improving: 70% of the result was gained after the first third"),
        (FLAT, "max", "levelled off"),
        (measured(CARDS), "max", "still improving: 25% of the result was gained after the first third"),
        (measured(RACCOON), "max", "levelled off"),
        (FALLING, "max", "overfitting: the best metric was at 40%"),
        ([p._replace(primary=1 - p.primary) for p in FALLING], "min", "overfitting: the best metric was at 40%"),
        ([p._replace(done=0) for p in FALLING], "max", "overfitting: the best metric was at 0%"),  # a crafted history
        ([p._replace(primary=p.primary / 20) for p in FALLING], "max", "hardly anything is learned yet"),
        ([p._replace(loss=2.0) for p in FALLING], "max", "levelled off"),  # the loss did not keep falling
        ([p._replace(primary=-p.primary) for p in RISING], "min", "still improving"),
        ([p._replace(primary=2 * p.primary) for p in RISING], "max", "the metric is close to its maximum"),
        ([p._replace(primary=2 * p.primary) for p in FALLING], "max", "the metric is close to its maximum"),
        ([p._replace(primary=1.98 * p.primary) for p in RISING], "max", "still improving"),
    ],
)
def test_a_curve_says_what_limited_it(history: list[Point], mode: Literal["max", "min"], words: str) -> None:
    assert diagnose(history, mode)[0].startswith(words)


def test_a_metric_without_a_highest_value_goes_on() -> None:
    history = [p._replace(primary=2 * p.primary) for p in RISING]
    assert diagnose(history, "max", highest=None)[0].startswith("still improving")


def test_a_single_validation_says_nothing() -> None:
    assert diagnose(RISING[:1], "max") == []
    assert diagnose([Point(0.5, 1.0, float("nan")), *RISING[:1]], "max") == []


def test_classes_with_few_examples_are_named_where_they_do_worse() -> None:
    examples, by_class = (
        {"car": 500, "bus": 12, "tram": 9, "van": 25},
        {"car": 0.8, "bus": 0.2, "tram": 0.9, "van": 0.4},
    )
    (sentence,) = diagnose([], "max", examples, by_class)
    assert sentence == "few examples: bus (12), van (25); more images of these classes will help most"
    assert diagnose([], "max", {"a": 5, "b": 6}, {"a": 0.1, "b": 0.1}) == []
    assert diagnose([], "max", {"a": 5, "b": 99}, {"b": 0.5}) == []  # a was not measured


@pytest.mark.parametrize("history", [RISING, FALLING, RISING[:1]])
def test_the_curve_of_few_validation_images_is_not_interpreted(history: list[Point]) -> None:
    (sentence,) = diagnose(history, "max", {"a": 5, "b": 99}, {"a": 0.1, "b": 0.5}, validated=1)
    assert sentence == "there are too few validation images (1) to judge by the metric: add more"
    assert "still improving" in diagnose(RISING, "max", validated=20)[0]
