"""Finds near-duplicate images by the similarity of their embeddings."""

from collections.abc import Callable, Iterable

import faiss
import numpy as np
import torch
from torch import Tensor


@torch.inference_mode()
def embed_all(embed: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> np.ndarray:
    """Unit vectors (N, D) float32 of all the images in batches (B, 3, R, R)."""
    rows = [torch.nn.functional.normalize(embed(images).float(), dim=1).cpu().numpy() for images in batches]
    return np.ascontiguousarray(np.concatenate(rows), np.float32)


def nearest_similarity(queries_ND: np.ndarray, gallery_MD: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each query to the most similar row of the gallery; all are unit vectors."""
    index = faiss.IndexFlatIP(gallery_MD.shape[1])
    index.add(gallery_MD)
    similarity, _ = index.search(queries_ND, 1)
    return similarity[:, 0]
