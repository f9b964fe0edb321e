"""Cosines of features: which of several drawn images fits its text best, and how alike two images are."""

from __future__ import annotations

import numpy as np


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row of one with the same row of the other: float64 [rows].

    Raises:
        ValueError: the shapes differ, or a row is 0.
    """
    if one.shape != other.shape:
        raise ValueError(f"features are {list(one.shape)} and {list(other.shape)}; expected one shape.")
    return np.einsum("nf,nf->n", _unit(one), _unit(other))


def best_candidates(text_features: np.ndarray, image_features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidate image that fits each text best; the first of equals.

    Args:
        text_features: [texts, features]
        image_features: [texts, candidates, features]

    Returns:
        int64 [texts]: the candidate; float64 [texts, candidates]: all cosines.
    """
    found = np.einsum("nf,ncf->nc", _unit(text_features), _unit(image_features))
    return found.argmax(1), found


def _unit(features: np.ndarray) -> np.ndarray:
    values = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if not (norms > 0).all() or not np.isfinite(norms).all():
        raise ValueError("A row of features is 0 or holds what is not a finite number, so it has no direction.")
    return values / norms
