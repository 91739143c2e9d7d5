"""Which tasks have a batch in which step: a function of the seed, the epoch and the step, so that a resumed run equals
an uninterrupted one, and all processes train the same tasks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def shares(images: Sequence[float], temperature: float) -> npt.NDArray[np.float64]:
    """The share of the batches (K,) of each of K tasks: equal at temperature 0, proportional to `images` at 1."""
    powers = np.asarray(images, np.float64) ** temperature
    return np.asarray(powers / powers.sum())


def draw_epoch(wanted: npt.NDArray[np.float64], steps: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The tasks (steps, K) whose batches make up each step of an epoch, in the order of the step.

    They are drawn by systematic resampling: in each step a task has its share of the K batches, rounded down or up.
    """
    count = len(wanted)
    generator = np.random.default_rng((seed, epoch))
    points = (generator.random((steps, 1)) + np.arange(count)) / count
    rows = np.searchsorted(np.cumsum(wanted), points.ravel(), side="right").reshape(steps, count)
    order = generator.random((steps, count)).argsort(axis=1)
    # rounding errors may leave the last sum below 1
    return np.take_along_axis(np.minimum(rows, count - 1), order, axis=1).astype(np.int64)
