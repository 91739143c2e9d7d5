"""Says what limited the result of a training, from the curves of loss and metric and the number of examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

# Shares of the best value gained since a share of the training was done. The learning rate's end levels every curve
# off; what came after the first third tells more: playing cards gained a quarter then and were far from their best,
# raccoons 3 %, and no more in a longer training (BENCHMARKS.md).
GAINS = ((1 / 3, 0.1, "after the first third"), (3 / 4, 0.02, "in the last quarter"))
FELL_BACK = 0.03  # of the best value, lost since
HARDLY = 0.05  # the best value of a metric that is better high, below which its changes say nothing
LEFT = 0.005  # below the highest value, so little that it says nothing either
FEW = 30  # training examples of a class


class Point(NamedTuple):
    """A validation: the share of the training that was done, the mean loss since the one before, and the metric."""

    done: float
    loss: float
    primary: float


def what_limited(
    history: Sequence[Point],
    mode: Literal["max", "min"],
    examples: Mapping[str, int] | None = None,
    by_class: Mapping[str, float] | None = None,
    highest: float | None = 1.0,
) -> list[str]:
    """Sentences about a finished training; none if nothing stands out. `examples` of training and the metric `by_class`
    are by the names of the classes. `highest` is the highest possible value of a metric of which more is better.
    """
    points = [p for p in history if math.isfinite(p.primary)]
    told = _curve(points, 1 if mode == "max" else -1, highest) if len(points) > 1 else ""
    return [text for text in (told, _few_examples(examples or {}, by_class or {})) if text]


def _curve(points: Sequence[Point], sign: int, highest: float | None) -> str:
    best = max(points, key=lambda p: sign * p.primary)
    last = points[-1]
    scale = max(abs(best.primary), 1e-9)
    if sign > 0 and best.primary < HARDLY:
        return "hardly anything is learned yet: train longer (trainer.minutes, trainer.steps), or start from weights"
    if sign > 0 and highest is not None and best.primary >= highest - LEFT:
        return (
            "the metric is close to its maximum: use more or harder validation images to see differences between models"
        )
    if sign * (best.primary - last.primary) > FELL_BACK * scale and last.loss < best.loss:
        return (
            f"overfitting: the best metric was at {best.done:.0%} of the training, while the loss kept falling; use "
            "more images or train for less time"
        )
    for share, most, when in GAINS:
        before = [sign * p.primary for p in points[:-1] if p.done <= max(share * last.done, points[0].done)]
        gain = (sign * last.primary - max(before)) / scale
        if gain > most:
            return (
                f"still improving: {gain:.0%} of the result was gained {when}; train longer "
                "(trainer.minutes, trainer.steps)"
            )
    return (
        "levelled off: longer training will add little; more images, a higher task.resolution or a larger "
        "backbone.alpha may help"
    )


def _few_examples(examples: Mapping[str, int], by_class: Mapping[str, float]) -> str:
    """Classes with few examples that do worse than the others."""
    mean = sum(by_class.values()) / len(by_class) if by_class else 0.0
    few = [
        name
        for name, count in sorted(examples.items(), key=lambda item: item[1])
        if count < FEW and by_class.get(name, mean) < mean
    ]
    if not few or len(few) == len(examples):
        return ""
    named = ", ".join(f"{name} ({examples[name]})" for name in few[:5])
    return f"few examples: {named}{' and others' if len(few) > 5 else ''}; more images of these classes will help most"
