"""What limited the result of a finished training, from the curves of loss and metric and the number of examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

# (Share of the training, gain since then relative to the best value): a larger gain counts as still improving. The
# learning rate's decay flattens every curve at the end, so the gain after the first third tells more: playing cards
# gained a quarter and were far from their best, raccoons 3 %, and no more in a longer training (BENCHMARKS.md).
GAINS = ((1 / 3, 0.1, "after the first third"), (3 / 4, 0.02, "in the last quarter"))
OVERFIT_DROP = 0.03  # drop since the best value, relative to it
MIN_SCORE = 0.05  # if higher is better: a best value below this is too low to judge by its changes
SATURATION_MARGIN = 0.005  # so close to the maximum, changes say nothing either
FEW_EXAMPLES = 30  # training examples of a class
MIN_VALIDATION_IMAGES = 20  # validation images, of which the metric says something


class Point(NamedTuple):
    """A validation: the epochs that were done, the mean loss since the previous one, and the metric."""

    done: float
    loss: float
    primary: float


def diagnose(
    history: Sequence[Point],
    mode: Literal["max", "min"],
    examples: Mapping[str, int] | None = None,
    by_class: Mapping[str, float] | None = None,
    highest: float | None = 1.0,
    validated: float = math.inf,
) -> list[str]:
    """Sentences about a finished training; none if nothing stands out. Training `examples` and the metric `by_class`
    are by class name; `highest` is the maximum of a metric for which higher is better; `validated` is the number of
    validation images.
    """
    points = [p for p in history if math.isfinite(p.primary)]
    told = _curve(points, 1 if mode == "max" else -1, highest) if len(points) > 1 else ""
    if validated < MIN_VALIDATION_IMAGES:  # one image more or less changes such a curve
        told = f"there are too few validation images ({validated:.0f}) to judge by the metric: add more"
        by_class = {}
    return [text for text in (told, _few_examples(examples or {}, by_class or {})) if text]


def _curve(points: Sequence[Point], sign: int, highest: float | None) -> str:
    best = max(points, key=lambda p: sign * p.primary)
    last = points[-1]
    scale = max(abs(best.primary), 1e-9)
    if sign > 0 and best.primary < MIN_SCORE:
        return "hardly anything is learned yet: train longer (trainer.minutes, trainer.steps), or start from weights"
    if sign > 0 and highest is not None and best.primary >= highest - SATURATION_MARGIN:
        return (
            "the metric is close to its maximum: use more or harder validation images to see differences between models"
        )
    if sign * (best.primary - last.primary) > OVERFIT_DROP * scale and last.loss < best.loss:
        share = best.done / (last.done or 1)  # of a run folder that is not trusted, it may be 0
        return (
            f"overfitting: the best metric was at {share:.0%} of the training, while the loss kept falling; use "
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
        if count < FEW_EXAMPLES and by_class.get(name, mean) < mean
    ]
    if not few or len(few) == len(examples):
        return ""
    named = ", ".join(f"{name} ({examples[name]})" for name in few[:5])
    return f"few examples: {named}{' and others' if len(few) > 5 else ''}; more images of these classes will help most"
