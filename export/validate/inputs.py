"""What each component is checked with: tensors that the PyTorch model itself passes on while it reads the samples.

Letters: R documents, T tokens of the longest, N images in all of them, C language-model width, K rows of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from export.graph.components import Component
from export.store.samples import Document
from models import Batch, MMInterleaved
from models.batch import IGNORED
from models.sequence import token_visible

GARBAGE = 50.0
"""Spread of what stands in cache rows that are not valid: any influence would show."""


@dataclass(frozen=True)
class Case:
    """One set of inputs of a component."""

    name: str
    inputs: dict[str, Tensor]


@torch.no_grad()
def real_cases(
    model: MMInterleaved, components: dict[str, Component], documents: Sequence[Document]
) -> dict[str, list[Case]]:
    """Cases of every component, at lengths other than those it was traced with.

    Args:
        model: with a processor.
        components: from `components_of(model)`; each one's inputs come out of those before it.
        documents: at least one image among them.
    """
    batch = pack(model, documents)
    rows = len(documents)
    pixels = {"pixel_values": batch.pixel_values}
    tokenized = components["image_tokenizer"].run(pixels)
    features = {"ms_features": tokenized["ms_features"]}
    cases = {
        "image_tokenizer": [Case(f"{len(batch.pixel_values)} images", pixels), Case("one image", _first(pixels))],
    }
    llm_values, unet_values = {}, {}
    if "mmfs_values_llm" in components:
        llm_values = components["mmfs_values_llm"].run(features)
        cases["mmfs_values_llm"] = [Case("all images", features), Case("one image", _first(features))]
    if "mmfs_values_unet" in components:
        unet_values = components["mmfs_values_unet"].run(features)
        cases["mmfs_values_unet"] = [Case("all images", features), Case("one image", _first(features))]

    embeddings = model.embed(batch.input_ids, tokenized["visual_tokens"], batch.image_positions)
    llm = components["llm"]
    cases["llm"] = _llm_cases(llm, model, batch, embeddings, llm_values)
    hidden = llm.run(cases["llm"][0].inputs)["hidden_states"]

    ends = [_end_of_context(batch, row) for row in range(rows)]
    context = {"context_hidden": hidden, "context_length": torch.tensor(ends)}
    alone = {"context_hidden": hidden[:1, : ends[0]], "context_length": torch.tensor(ends[:1])}
    cases["context_resampler"] = [Case(f"{rows} contexts", context), Case("one context", alone)]
    both_halves = components["context_resampler"].run(context)

    noisy, timesteps, latents = _noisy_latents(model, batch, rows)
    cases["unet_mmfs"] = _unet_cases(components["unet_mmfs"], batch, noisy, timesteps, both_halves, unet_values)
    cases["vae_decoder"] = [Case("images", {"latents": latents}), Case("one noisy image", {"latents": noisy[:1]})]
    return cases


def pack(model: MMInterleaved, documents: Sequence[Document]) -> Batch:
    """One document a row, as training packs them; nothing is a target and nothing is drawn."""
    config, processor = model.config, model.processor
    assert processor is not None, "the command asks for one first"
    rows, images, places = [], [], []
    for row, document in enumerate(documents):
        ids = [config.bos_token_id]
        for segment in document:
            if isinstance(segment, Image.Image):
                ids.append(config.begin_of_image_id)
                images.append(processor.encode_image(segment))
                places.append((row, len(ids)))
                ids += [config.image_token_id] * config.visual_tokenizer.num_visual_tokens
            else:
                ids += processor.encode_text(segment)
        rows.append(torch.tensor(ids))
    lengths = torch.tensor([len(ids) for ids in rows]).unsqueeze(1)
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
    positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        input_ids=input_ids,
        targets=torch.full_like(input_ids, IGNORED),
        document_ids=torch.where(positions < lengths, 0, -1),
        position_ids=positions,
        pixel_values=torch.stack(images),
        image_positions=torch.tensor(places),
        drawn=nothing,
        drawn_pixels=torch.zeros(0, 3, 1, 1),
        drawn_keys=nothing,
    )


def _llm_cases(
    llm: Component, model: MMInterleaved, batch: Batch, embeddings: Tensor, values: dict[str, Tensor]
) -> list[Case]:
    """The whole documents at once, their last tokens alone, a chunk in the middle, and text without any image."""
    lengths = (batch.document_ids >= 0).sum(1)  # [R]
    rows, longest = batch.input_ids.shape
    visible = token_visible(batch)

    def inputs(columns: Tensor, past: dict[str, Tensor], start: Tensor, last: Tensor) -> dict[str, Tensor]:
        """New tokens are those at `columns` [r, S] of the first r rows."""
        row = torch.arange(len(columns)).unsqueeze(1)
        chosen = {
            "inputs_embeds": embeddings[row, columns],
            "position_ids": columns,
            "write_indices": start,
            "last_token_ids": last.unsqueeze(1),
            "visible": visible[row, columns],
            **past,
            **values,
        }
        return {name: chosen[name] for name in llm.inputs}

    nothing_read = {name: _empty(llm, name, batch=rows) for name in llm.inputs if name.startswith("past_")}
    zeros = torch.zeros(rows, dtype=torch.int64)
    whole = inputs(batch.position_ids, nothing_read, zeros, lengths - 1)

    read = llm.run(whole)
    garbage = torch.Generator().manual_seed(0)
    past = {}
    for name in nothing_read:
        kept = read[name.replace("past_", "new_")]
        valid = torch.arange(longest + 2) < (lengths - 1).unsqueeze(1)  # [R, K]; two rows of capacity to spare
        noise = torch.randn(*kept.shape[:2], longest + 2, kept.shape[3], generator=garbage) * GARBAGE
        past[name] = torch.where(valid[:, None, :, None], F.pad(kept, (0, 0, 0, 2)), noise)
    last_token = inputs((lengths - 1).unsqueeze(1), past, lengths - 1, zeros)

    start = int(lengths[0]) // 2
    chunk = torch.arange(start, int(lengths[0])).unsqueeze(0)
    first_row = {name: tensor[:1] for name, tensor in past.items()}
    middle = inputs(chunk, first_row, torch.tensor([start]), torch.tensor([chunk.shape[1] - 1]))

    words = batch.input_ids[:1, : int(lengths[0])]
    words = words[(words != model.config.image_token_id) & (words != model.config.begin_of_image_id)].unsqueeze(0)
    alone = {
        "inputs_embeds": model.language_model.embed(words),
        "position_ids": torch.arange(words.shape[1]).unsqueeze(0),
        "write_indices": zeros[:1],
        "last_token_ids": torch.tensor([[words.shape[1] - 1]]),
        "visible": torch.zeros(*words.shape, 2, dtype=torch.int64),
        **{name: _empty(llm, name, batch=1) for name in nothing_read},
        **{name: tensor[:0] for name, tensor in values.items()},
    }
    return [
        Case(f"{rows} whole documents", whole),
        Case("their last tokens, from the cache", last_token),
        Case(f"{chunk.shape[1]} tokens behind {start} cached", middle),
        Case("words without an image", {name: alone[name] for name in llm.inputs}),
    ]


def _unet_cases(
    unet: Component,
    batch: Batch,
    noisy: Tensor,
    timesteps: Tensor,
    both_halves: dict[str, Tensor],
    values: dict[str, Tensor],
) -> list[Case]:
    """A guided step, one image that sees every image, and one in a document without images."""
    rows = len(noisy)
    row_of_image = batch.image_positions[:, 0].contiguous()
    first = torch.searchsorted(row_of_image, torch.arange(rows))
    last = torch.searchsorted(row_of_image, torch.arange(rows), right=True)
    before = torch.stack([first, torch.maximum(first, last - 1)], dim=1)  # a document's last image is being drawn

    def inputs(which: slice, visible: Tensor, bank: dict[str, Tensor]) -> dict[str, Tensor]:
        condition = {name: rows[which] for name, rows in both_halves.items()}
        num = len(visible)
        chosen = {
            "sample": noisy.repeat(2, 1, 1, 1)[:num],
            "timestep": timesteps.repeat(2)[:num],
            **condition,
            "visible": visible,
            **bank,
        }
        return {name: chosen[name] for name in unet.inputs}

    everything = torch.tensor([[0, len(batch.pixel_values)]])
    no_image = {name: tensor[:0] for name, tensor in values.items()}
    return [
        Case("both halves of a guided step", inputs(slice(None), before.repeat(2, 1), values)),
        Case("one image that sees all images", inputs(slice(rows, rows + 1), everything, values)),
        Case("one image without images", inputs(slice(1), torch.zeros(1, 2, dtype=torch.int64), no_image)),
    ]


def _noisy_latents(model: MMInterleaved, batch: Batch, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of one image per document, disturbed by as much noise as a time step between start and end has.

    Returns:
        Noisy latents [R, c, h, w], their time steps [R] float32, and the latents of all images [N, c, h, w].
    """
    decoder = model.image_decoder
    size = decoder.config.drawn_image_size
    pixels = F.interpolate(batch.pixel_values, size=size, mode="bilinear", antialias=True)
    latents = decoder.codec.encode(pixels)
    chosen = latents[torch.arange(rows) % len(latents)]
    num_steps = decoder.noise_schedule.config.num_train_timesteps
    timesteps = torch.linspace(0, num_steps - 1, rows + 2)[1:-1].round().long()
    noise = torch.randn(chosen.shape, generator=torch.Generator().manual_seed(0))
    return decoder.noise_schedule.add_noise(chosen, noise, timesteps), timesteps.float(), latents


def _end_of_context(batch: Batch, row: int) -> int:
    """One past the `<BoI>` of a row's last image; the whole row if it has none."""
    columns = batch.image_positions[batch.image_positions[:, 0] == row, 1]
    return int(columns.max()) if len(columns) else int((batch.document_ids[row] >= 0).sum())


def _first(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[:1] for name, tensor in inputs.items()}


def _empty(component: Component, name: str, *, batch: int) -> Tensor:
    """An input whose `past` axis has no rows."""
    sizes = {"batch": batch, "past": 0}
    port = component.inputs[name]
    return torch.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in port.shape], dtype=port.dtype)
