"""Packed rows become a batch.

Letters: B rows, T tokens a row, N images in all rows together, M drawn ones; read images are image_side x image_side,
drawn ones drawn_image_side x drawn_image_side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.batch import IGNORED
from trainer.data.compact_batch import CompactBatch, CompactImages
from trainer.data.pack import Row, SpecialTokens
from trainer.data.stable_key import stable_key


def collate(
    rows: Sequence[Row],
    special: SpecialTokens,
    *,
    row_tokens: int,
    image_side: int,
    drawn_image_side: int,
    seed: int,
    step: int,
    first_row: int = 0,
    datasets: Sequence[str] = (),
) -> CompactBatch:
    """Packed rows as a batch, padded to `row_tokens`.

    Documents are numbered by the place of their dataset in `datasets`; without these, the batch has no `dataset_ids`.

    `drawn_keys` are hashes of (seed, step, row, number of the image within its row); the first of `rows` is row
    `first_row` of the step.
    """
    shape = (len(rows), row_tokens)
    input_ids = np.full(shape, special.pad, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    document_ids = np.full(shape, -1, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    dataset_ids = np.full(shape, -1, dtype=np.int64)
    dataset_numbers = {name: number for number, name in enumerate(datasets)}
    bank: list[np.ndarray] = []  # uint8, square
    places: list[tuple[int, int]] = []
    drawn: list[int] = []
    drawn_keys: list[int] = []
    drawn_images: list[np.ndarray] = []
    for r, row in enumerate(rows):
        start = num_images = 0
        for number, document in enumerate(row.documents):
            end = start + len(document.input_ids)
            input_ids[r, start:end] = document.input_ids
            targets[r, start:end] = document.targets
            document_ids[r, start:end] = number
            position_ids[r, start:end] = np.arange(end - start)
            if datasets:
                dataset_ids[r, start:end] = dataset_numbers[document.dataset]
            for image in document.images:
                if image.drawn:
                    drawn.append(len(bank))
                    drawn_keys.append(stable_key(seed, step, first_row + r, num_images))
                    drawn_images.append(image.pixels if image.target is None else image.target)
                bank.append(image.pixels)
                places.append((r, start + image.column))
                num_images += 1
            start = end
    return CompactBatch(
        input_ids=torch.from_numpy(input_ids),
        targets=torch.from_numpy(targets),
        document_ids=torch.from_numpy(document_ids),
        position_ids=torch.from_numpy(position_ids),
        images=CompactImages.of(bank, image_side),
        image_positions=torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
        drawn=torch.tensor(drawn, dtype=torch.int64),
        drawn_images=CompactImages.of(drawn_images, drawn_image_side),
        drawn_keys=torch.tensor(drawn_keys, dtype=torch.int64),
        dataset_ids=torch.from_numpy(dataset_ids) if datasets else None,
    )
