"""Packed rows made by hand, for tests of the model."""

from __future__ import annotations

import dataclasses

import torch

from models.batch import IGNORED, Batch
from models.network import Network

PAD, BOS, EOS, BOI, IMAGE = range(5)
NUM_VISUAL_TOKENS, SIDE = 2, 32
"""Of an image that `MMInterleavedConfig.tiny` reads; pixels."""


def pack_rows(rows: list[list[list[int | str]]], *, drawn_image_side: int = SIDE) -> Batch:
    """Rows of documents; a document is a list of text ids, with "image" (read only) or "draw" where an image stands.

    `<s>` and `</s>` are added; every text token and `</s>` is a target, `<BoI>` too.
    """
    generator = torch.Generator().manual_seed(0)
    ids, targets, documents, positions, images, drawn = [], [], [], [], [], []
    for row_number, row in enumerate(rows):
        row_ids: list[int] = []
        row_targets: list[int] = []
        row_documents: list[int] = []
        row_positions: list[int] = []
        for document_number, document in enumerate(row):
            tokens = [BOS]
            for item in [*document, EOS]:
                if isinstance(item, int):
                    tokens.append(item)
                    continue
                tokens.append(BOI)
                images.append([row_number, len(row_ids) + len(tokens)])
                if item == "draw":
                    drawn.append(len(images) - 1)
                tokens += [IMAGE] * NUM_VISUAL_TOKENS
            row_ids += tokens
            row_targets += [t if t != IMAGE else IGNORED for t in tokens[1:]] + [IGNORED]
            row_documents += [document_number] * len(tokens)
            row_positions += range(len(tokens))
        ids.append(row_ids)
        targets.append(row_targets)
        documents.append(row_documents)
        positions.append(row_positions)
    length = max(map(len, ids))

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in values])

    return Batch(
        input_ids=padded(ids, PAD),
        targets=padded(targets, IGNORED),
        document_ids=padded(documents, -1),
        position_ids=padded(positions, 0),
        pixel_values=torch.rand(len(images), 3, SIDE, SIDE, generator=generator),
        image_positions=torch.tensor(images).reshape(-1, 2).long(),
        drawn=torch.tensor(drawn, dtype=torch.int64),
        drawn_pixels=torch.rand(len(drawn), 3, drawn_image_side, drawn_image_side, generator=generator),
        drawn_keys=torch.arange(len(drawn)) + 1000,
    )


def batch_for(model: Network, rows: list, *, shape: tuple[int, int] = (32, 32)) -> Batch:
    """`pack_rows` with the model's special tokens and sizes."""
    batch, config = pack_rows(rows, drawn_image_side=model.config.image_decoder.image_size), model.config
    own = {
        PAD: config.pad_token_id,
        BOS: config.bos_token_id,
        EOS: config.eos_token_id,
        BOI: config.begin_of_image_id,
        IMAGE: config.image_token_id,
    }
    renamed = {
        name: getattr(batch, name).clone().apply_(lambda token: own.get(token, token))
        for name in ("input_ids", "targets")
    }
    return dataclasses.replace(batch, **renamed, pixel_values=torch.rand(len(batch.pixel_values), 3, *shape))
