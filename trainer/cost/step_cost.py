"""What a training step computes and keeps, from the shapes of its tensors, without data or weights.

Letters: R rows, T tokens a row, N images of the bank, M drawn images, K context length, C language-model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from models import MMInterleaved
from models.documents import Documents
from models.frozen import freeze
from models.lora import add_lora
from trainer.config import TrainConfig
from trainer.cost.saved_tensors import SavedTensors
from trainer.step.frozen_weights import keep_frozen_in, keep_frozen_in_float8

NO_DATA = FakeTensorMode(allow_non_fake_inputs=True)
"""Tensors that are made in it have shapes, and pretend to be on a CPU: what autograd keeps there it keeps on a GPU too,
but for the kernels' own choices."""

aten = torch.ops.aten

FACTORS: dict[Any, Sequence[int]] = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.convolution: (0, 1),
}
"""Positions of the arguments that are multiplied. The gradient of each costs as much as the product."""


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

    documents: tuple[int, ...] | None = None
    """Tokens of each document, padding included, where attention is computed by document; None: under a mask of all
    pairs of tokens."""


@dataclass(frozen=True)
class StepCost:
    """Of one micro-batch, by part: encoder, language_model, logits, and image_decoder where an image is drawn.

    Operations are those of matrix products, convolutions and attention; a multiplication and an addition are two.
    """

    kept_bytes: dict[str, int]
    """What the graph holds for the backward: of the logits and of the image decoder that of the tokens and images at
    once."""

    forward_flops: dict[str, int]
    """For all images and tokens."""

    backward_flops: dict[str, int]
    """The same. What is computed again, where layers keep their inputs alone, is not in it."""

    @property
    def flops(self) -> int:
        """Forward and backward of all parts."""
        return sum(self.forward_flops.values()) + sum(self.backward_flops.values())


def shell(config: TrainConfig) -> MMInterleaved:
    """The model of a run without weights, what is frozen without gradients and in the run's precision."""
    with torch.device("meta"):  # where random numbers cost nothing
        model = MMInterleaved(config.model).train()
        freeze(model, config.frozen)
        if config.lora is not None:
            add_lora(model, config.lora)
    if config.freeze_encoder:
        model.visual_tokenizer.adapter.requires_grad_(False)
    with NO_DATA:
        model.to_empty(device="cpu")
        if not config.encoder_pretraining.num_steps:  # which is in float32
            keep_frozen_in(model, getattr(torch, config.precision))
        if config.float8 == "frozen":
            keep_frozen_in_float8(model, {})
        if config.attends_by_document:
            model.language_model.enable_document_attention()
    return model


def measure(model: MMInterleaved, config: TrainConfig, shape: BatchShape) -> StepCost:
    """Run the forward of a micro-batch of `trainer.step.accumulate`, less its work on indices, on tensors without data.

    Args:
        model: the `shell` of the run; `enable_activation_checkpointing` changes what it keeps.
        config: the run.
        shape: of the micro-batch.
    """
    with NO_DATA:
        return _Meter(model, config.precision).measure(
            shape,
            images=min(config.memory.image_chunk or shape.num_drawn, shape.num_drawn),
            tokens=min(config.memory.token_chunk or shape.num_targets, shape.num_targets),
        )


class Operations(TorchDispatchMode):
    """Counts the operations of what runs inside, and those of the backward that it will have."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.backward = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator is aten._scaled_dot_product_flash_attention_for_cpu:  # PyTorch's table has those of GPUs alone
            shapes = [argument.shape for argument in args[:3]]
            self.forward += sdpa_flop_count(*shapes)
            if any(argument.requires_grad for argument in args[:3]):
                self.backward += sdpa_backward_flop_count(out[0].shape, *shapes)
        elif operator in flop_registry:
            flops = flop_registry[operator](*args, **kwargs, out_val=out)
            self.forward += flops
            self.backward += flops * sum(args[position].requires_grad for position in FACTORS[operator])
        return out


class _Meter:
    """Counts bytes and operations of a model's parts."""

    def __init__(self, model: MMInterleaved, precision: str) -> None:
        self._model = model
        self._precision = partial(
            torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        )
        self._saved = SavedTensors([*model.parameters(), *model.buffers()])
        self._operations = Operations()
        self._cost = StepCost({}, {}, {})

    def measure(self, shape: BatchShape, *, images: int, tokens: int) -> StepCost:
        """The cost of a micro-batch with so many images and tokens at once; once for each object."""
        with self._operations, self._saved.counted():
            visual_tokens, features = self._run("encoder", partial(self._encode, shape))
            hidden = self._run("language_model", partial(self._read, shape, visual_tokens, features))
            ends = [self._run("logits", partial(self._text_loss, hidden, tokens), shape.num_targets / max(tokens, 1))]
            if images:
                draw = partial(self._image_loss, shape, hidden, features, images)
                ends.append(self._run("image_decoder", draw, shape.num_drawn / images))
            del ends  # until here they have held the graphs
        return self._cost

    def _run(self, part: str, forward: Callable[[], Any], factor: float = 1.0) -> Any:
        kept, counted = self._saved.live_bytes, (self._operations.forward, self._operations.backward)
        with self._precision():
            result = forward()
        self._cost.kept_bytes[part] = self._saved.live_bytes - kept
        self._cost.forward_flops[part] = round(factor * (self._operations.forward - counted[0]))
        self._cost.backward_flops[part] = round(factor * (self._operations.backward - counted[1]))
        return result

    def _encode(self, shape: BatchShape) -> tuple[Tensor, Tensor]:
        return self._model.visual_tokenizer(torch.zeros(shape.num_images, 3, *self._model.config.image_size))

    def _read(self, shape: BatchShape, visual_tokens: Tensor, features: Tensor) -> Tensor:
        size = (shape.num_rows, shape.row_tokens)
        row = torch.zeros(shape.num_images, 2, dtype=torch.int64)
        return self._model.language_model(
            self._model.embed(torch.zeros(size, dtype=torch.int64), visual_tokens, row),
            position_ids=torch.zeros(size, dtype=torch.int64),
            mask=self._mask(shape),
            values=self._model.language_model.project_values(features),
            visible=torch.zeros(*size, 2, dtype=torch.int64),
        )

    def _mask(self, shape: BatchShape) -> Tensor | Documents:
        if shape.documents is not None:
            return Documents.of(shape.documents)
        return torch.ones(shape.num_rows, 1, shape.row_tokens, shape.row_tokens, dtype=torch.bool)

    def _text_loss(self, hidden: Tensor, tokens: int) -> Tensor:
        states = hidden.flatten(0, 1)[:tokens]
        targets = torch.zeros(tokens, dtype=torch.int64)
        return F.cross_entropy(self._model.language_model.logits(states).float(), targets, reduction="sum")

    def _image_loss(self, shape: BatchShape, hidden: Tensor, features: Tensor, images: int) -> Tensor:
        decoder = self._model.image_decoder
        height, width = self._model.config.drawn_image_size
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
