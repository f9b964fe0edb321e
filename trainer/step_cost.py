"""What a training step computes and keeps, from the shapes of its tensors, without data or weights.

Letters: R rows, T tokens a row, N images of the bank, M drawn images, K context length, C language-model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from models import MMInterleaved
from models.frozen import freeze
from models.lora import add_lora
from models.recompute import RecomputedPart, recompute
from trainer.accumulate import keep_frozen_in
from trainer.config import TrainConfig
from trainer.saved_tensors import SavedTensors


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


ATTENTION_ON_CPU: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""By shapes; PyTorch's counter knows the fused attention of GPUs alone."""


@dataclass(frozen=True)
class BatchShape:
    """The sizes of one micro-batch."""

    num_rows: int
    row_tokens: int
    num_images: int
    num_drawn: int
    num_targets: int
    context_tokens: int
    """K, the longest context that an image is drawn from."""


@dataclass(frozen=True)
class StepCost:
    """Of one micro-batch."""

    kept_bytes: dict[str, int]
    """What the graph of each part holds for the backward: encoder, language_model, logits of the tokens at once, and
    image_decoder of the images at once."""

    forward_flops: dict[str, int]
    """By part: of matrix products, convolutions and attention, for all images and tokens; a multiplication and an
    addition are two."""

    flops: int
    """With the backward, if it ran, all parts together."""


def shell(config: TrainConfig) -> MMInterleaved:
    """The model of a run without weights, on the meta device, what is frozen without gradients."""
    with torch.device("meta"):
        model = MMInterleaved(config.model).train()
        freeze(model, config.frozen)
        if config.lora is not None:
            add_lora(model, config.lora)
    if config.freeze_encoder:
        model.visual_tokenizer.adapter.requires_grad_(False)
    return model


def measure(
    config: TrainConfig, shape: BatchShape, recomputed: Iterable[RecomputedPart], *, backward: bool
) -> StepCost:
    """Run a micro-batch of `trainer.accumulate`, without its work on indices, on tensors that have no data.

    They pretend to be on a CPU: what autograd keeps there it keeps on a GPU too, but for the kernels' own choices.

    Args:
        config: the run.
        shape: of the micro-batch.
        recomputed: parts whose layers keep their inputs alone, in place of `config.recompute`.
        backward: False: stop after the forward.
    """
    model = shell(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        keep_frozen_in(model, getattr(torch, config.precision))
        recompute(model, recomputed)
        return _Meter(model, config.precision).measure(
            shape,
            images=min(config.images_at_once or shape.num_drawn, shape.num_drawn),
            tokens=min(config.tokens_at_once or shape.num_targets, shape.num_targets),
            backward=backward,
        )


class _Meter:
    """Counts bytes and operations of a model's parts."""

    def __init__(self, model: MMInterleaved, precision: str) -> None:
        self._model = model
        self._precision = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bfloat16")
        self._saved = SavedTensors([*model.parameters(), *model.buffers()])
        self._counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
        self._kept_bytes: dict[str, int] = {}
        self._forward_flops: dict[str, int] = {}
        self._backward_flops = 0

    def measure(self, shape: BatchShape, *, images: int, tokens: int, backward: bool) -> StepCost:
        """The cost of a micro-batch with so many images and tokens at once; once for each object."""
        all_images, all_tokens = shape.num_drawn / max(images, 1), shape.num_targets / max(tokens, 1)
        with self._counter, self._saved.counted():
            visual_tokens, features = self._run("encoder", partial(self._encode, shape))
            hidden = self._run("language_model", partial(self._read, shape, visual_tokens, features))
            hidden_leaf, features_leaf = (x.detach().requires_grad_(x.requires_grad) for x in (hidden, features))
            ends = [self._run("logits", partial(self._text_loss, hidden_leaf, tokens), all_tokens)]
            factors = [all_tokens]
            if images:
                draw = partial(self._image_loss, shape, hidden_leaf, features_leaf, images)
                ends.append(self._run("image_decoder", draw, all_images))
                factors.append(all_images)
            if backward:
                for end, factor in zip(ends, factors, strict=True):
                    self._backward([end], factor)
                self._backward([hidden, features])
        flops = sum(self._forward_flops.values()) + self._backward_flops
        return StepCost(self._kept_bytes, self._forward_flops, flops)

    def _run(self, part: str, forward: Callable[[], Any], factor: float = 1.0) -> Any:
        kept, flops = self._saved.live_bytes, self._counter.get_total_flops()
        with self._precision():
            result = forward()
        self._kept_bytes[part] = self._saved.live_bytes - kept
        self._forward_flops[part] = round(factor * (self._counter.get_total_flops() - flops))
        return result

    def _backward(self, ends: Sequence[Tensor], factor: float = 1.0) -> None:
        flops = self._counter.get_total_flops()
        with_history = [end for end in ends if end.requires_grad]
        if with_history:
            torch.autograd.backward(with_history, [torch.ones_like(end) for end in with_history])
        self._backward_flops += round(factor * (self._counter.get_total_flops() - flops))

    def _encode(self, shape: BatchShape) -> tuple[Tensor, Tensor]:
        return self._model.visual_tokenizer(torch.zeros(shape.num_images, 3, *self._model.config.vision.picture_shape))

    def _read(self, shape: BatchShape, visual_tokens: Tensor, features: Tensor) -> Tensor:
        size = (shape.num_rows, shape.row_tokens)
        row = torch.zeros(shape.num_images, 2, dtype=torch.int64)
        return self._model.language_model(
            self._model.embed(torch.zeros(size, dtype=torch.int64), visual_tokens, row),
            position_ids=torch.zeros(size, dtype=torch.int64),
            mask=torch.ones(size[0], 1, size[1], size[1], dtype=torch.bool),
            values=self._model.language_model.project_values(features),
            visible=torch.zeros(*size, 2, dtype=torch.int64),
        )

    def _text_loss(self, hidden: Tensor, tokens: int) -> Tensor:
        states = hidden.flatten(0, 1)[:tokens]
        targets = torch.zeros(tokens, dtype=torch.int64)
        return F.cross_entropy(self._model.language_model.logits(states).float(), targets, reduction="sum")

    def _image_loss(self, shape: BatchShape, hidden: Tensor, features: Tensor, images: int) -> Tensor:
        decoder = self._model.image_decoder
        height, width = self._model.config.image_decoder.picture_shape
        rows = torch.zeros(images, 1, dtype=torch.int64)
        columns = torch.zeros(images, shape.context_tokens, dtype=torch.int64)
        looked_at = -(-shape.num_images * images // shape.num_drawn)  # of the bank, by this share of the drawn
        noise = torch.zeros(images, *decoder.latent_shape)
        return decoder.denoising_error(
            torch.zeros(images, 3, height, width),
            decoder.condition(hidden[rows, columns], torch.ones_like(columns, dtype=torch.bool)),
            noise,
            noise,
            torch.zeros(images, dtype=torch.int64),
            values=decoder.unet.project_values(features[:looked_at]),
            visible=torch.zeros(images, 2, dtype=torch.int64),
        ).sum()
