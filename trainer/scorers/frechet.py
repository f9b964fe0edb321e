"""The Fréchet distance of two sets of features (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge
to a Local Nash Equilibrium", 2017): FID where the features are Inception's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of features."""

    mean: np.ndarray
    """float64 [features]"""

    covariance: np.ndarray
    """float64 [features, features], with n - 1 in the denominator."""

    count: int


class RunningStatistics:
    """Mean and covariance of features that come in parts, in float64."""

    def __init__(self, num_features: int) -> None:
        self._count = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))

    def add(self, features: np.ndarray) -> None:
        """Count a part [samples, features] in."""
        part = np.asarray(features, dtype=np.float64)
        if part.ndim != 2 or part.shape[1] != len(self._mean):
            raise ValueError(f"features have the shape {list(part.shape)}; expected [samples, {len(self._mean)}].")
        if not np.isfinite(part).all():
            raise ValueError("features hold infinity or what is not a number.")
        if len(part) == 0:
            return
        part_mean = part.mean(0)
        centred = part - part_mean
        shift = part_mean - self._mean
        total = self._count + len(part)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self._count * len(part) / total)
        self._mean += shift * (len(part) / total)
        self._count = total

    def result(self) -> Statistics:
        """What was counted so far.

        Raises:
            ValueError: fewer than two samples, which have no covariance.
        """
        if self._count < 2:
            raise ValueError(f"There are {self._count} samples; a covariance needs 2 or more.")
        return Statistics(self._mean.copy(), self._scatter / (self._count - 1), self._count)


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), where the last trace comes from the eigenvalues of C1^½ C2 C1^½, which is
    symmetric; eigenvalues that rounding made negative count as 0. With 2,048 features this takes most of a minute."""
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ other.covariance @ root
    mixed = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    difference = one.mean - other.mean
    return float(difference @ difference + np.trace(one.covariance) + np.trace(other.covariance) - 2 * mixed)
