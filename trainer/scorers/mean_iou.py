"""How well drawn images keep to a label map (ADE20K): intersection over union of what a segmenter finds in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class MeanIoU:
    """The scores of a set of label maps."""

    over_all_classes: float
    """A class that never occurs counts 0: the official rule, and the released code's."""

    over_seen_classes: float
    """Classes that are in neither label nor prediction are left out."""

    pixel_accuracy: float


class ConfusionCounts:
    """Intersections and unions of label maps, summed over images."""

    def __init__(self, num_classes: int = 150) -> None:
        self.intersection = np.zeros(num_classes, dtype=np.int64)
        self.union = np.zeros(num_classes, dtype=np.int64)
        self._num_labelled = 0

    def add(self, label: np.ndarray, prediction: np.ndarray) -> None:
        """Count an image.

        Args:
            label: integers [height, width], 0 for unlabelled, else 1 to the number of classes.
            prediction: integers [height, width], from 0: a segmenter's class.

        Raises:
            ValueError: the shapes differ, or a number is out of range.
        """
        num_classes = len(self.union)
        if label.shape != prediction.shape:
            raise ValueError(
                f"label is {list(label.shape)} and prediction {list(prediction.shape)}; expected one size."
            )
        if label.size and (label.min() < 0 or label.max() > num_classes):
            raise ValueError(f"label holds {label.min()} to {label.max()}; expected 0 to {num_classes}.")
        if prediction.size and (prediction.min() < 0 or prediction.max() >= num_classes):
            raise ValueError(
                f"prediction holds {prediction.min()} to {prediction.max()}; expected 0 to {num_classes - 1}."
            )
        labelled = label > 0
        true, predicted = label[labelled].astype(np.int64) - 1, prediction[labelled].astype(np.int64)
        both = np.bincount(true[true == predicted], minlength=num_classes)
        self.intersection += both
        self.union += np.bincount(true, minlength=num_classes) + np.bincount(predicted, minlength=num_classes) - both
        self._num_labelled += len(true)

    def result(self) -> MeanIoU:
        """The scores of what was counted so far."""
        seen = self.union > 0
        shares = self.intersection / np.maximum(self.union, 1)
        return MeanIoU(
            over_all_classes=float(shares.mean()),
            over_seen_classes=float(shares[seen].mean()) if seen.any() else 0.0,
            pixel_accuracy=float(self.intersection.sum() / max(self._num_labelled, 1)),
        )
