"""Verification metrics of embeddings: over all pairs, by LFW's protocol, and in retrieval."""

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from data.identities import Pairs

Vectors = npt.NDArray[np.float32]

BINS = 200_000  # of the cosine, -1 to 1
BLOCK = 1024
FARS = (1e-1, 1e-2, 1e-3, 1e-4)
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Roc:
    """False and true accept rates at descending thresholds, and the numbers of genuine and impostor pairs."""

    far: np.ndarray
    tar: np.ndarray
    genuine: int
    impostor: int

    @classmethod
    def of(cls, vectors_ND: Vectors, people: np.ndarray) -> "Roc":
        """From all pairs of unit vectors; cosines are counted in bins, so that any number fits in memory."""
        counts = np.zeros((2, BINS), np.int64)
        for start in range(0, len(vectors_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            cosine = vectors_ND[rows] @ vectors_ND.T
            later = np.arange(len(vectors_ND))[None] > np.arange(len(vectors_ND))[rows, None]
            same = people[rows, None] == people[None]
            for kind, chosen in enumerate((later & same, later & ~same)):
                place = ((cosine[chosen] + 1) * (BINS / 2)).astype(np.int64).clip(0, BINS - 1)
                counts[kind] += np.bincount(place, minlength=BINS)
        genuine, impostor = counts.sum(axis=1).tolist()
        tar, far = counts[:, ::-1].cumsum(axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return cls(far, tar, genuine, impostor)

    def tar_at(self, far: float) -> float:
        """The true accept rate at the lowest threshold that accepts no more than a share `far` of impostors."""
        index = self._bin(far)
        return float(self.tar[index]) if index >= 0 else 0.0

    def threshold_at(self, far: float) -> float:
        """The threshold of `tar_at`, a cosine."""
        return 1 - (self._bin(far) + 1) * 2 / BINS

    def _bin(self, far: float) -> int:
        """The index of that threshold's bin; -1 if none accepts so few."""
        return int(np.searchsorted(self.far, far, side="right")) - 1

    def summary(self) -> dict[str, float]:
        """TAR at each FAR with enough pairs, a threshold, the area under the curve, and the equal error rate."""
        fars = [far for far in FARS if far >= 1e-2 or self.impostor * far >= 1]
        balance = int(np.argmin(np.abs(self.far - (1 - self.tar))))
        area = float(np.trapezoid(np.append(0, self.tar), np.append(0, self.far)))
        found = {f"tar_far{far:.0e}".replace("e-0", "e-"): self.tar_at(far) for far in fars}
        found["threshold_far1e-2"] = self.threshold_at(1e-2)
        return found | {"auc": area, "eer": float((self.far[balance] + 1 - self.tar[balance]) / 2)}


def best_threshold(cosine: np.ndarray, same: np.ndarray) -> float:
    """The cosine threshold with the highest accuracy."""
    order = np.argsort(-cosine)
    right = np.append(0, np.cumsum(np.where(same[order], 1, -1)))  # correct decisions, compared with rejecting all
    edges = np.concatenate([[2.0], cosine[order], [-2.0]])
    right[edges[:-1] == edges[1:]] = -len(cosine)  # no threshold separates equal cosines
    best = int(right.argmax())
    return float(edges[best] + edges[best + 1]) / 2


def lfw_accuracy(cosine: np.ndarray, pairs: Pairs) -> tuple[float, float]:
    """Mean and standard deviation over the folds of the accuracy at the threshold that is best on the other folds."""
    accuracies = []
    for fold in np.unique(pairs.folds):
        inside = pairs.folds == fold
        threshold = best_threshold(cosine[~inside], pairs.same[~inside])
        accuracies.append(float(((cosine[inside] >= threshold) == pairs.same[inside]).mean()))
    return float(np.mean(accuracies)), float(np.std(accuracies))


def recalls(vectors_ND: Vectors, people: np.ndarray) -> dict[int, float]:
    """Recall@k: share of images, of people with several, that have another of the same person among the k nearest."""
    index = faiss.IndexFlatIP(vectors_ND.shape[1])
    index.add(np.ascontiguousarray(vectors_ND))
    _, number, counts = np.unique(people, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[number] > 1)
    _, near = index.search(np.ascontiguousarray(vectors_ND[queries]), max(RANKS) + 1)
    own = near == queries[:, None]
    hit = (people[near] == people[queries, None]) & ~own & (near >= 0)
    rank = np.cumsum(~own, axis=1)  # of the others, from 1
    return {k: float((hit & (rank <= k)).any(axis=1).mean()) for k in RANKS if k < len(people)}
