"""A training step of a model of 2.7 billion parameters, 1.3 of them the language model's, with random weights.

The paper's setting: the vision encoder, the language model and the VAE are frozen; half precision with float32 masters.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from models import MMInterleaved, MMInterleavedConfig
from models.activation_checkpointing import enable_activation_checkpointing
from models.compiled_components import compile_components
from models.component_configs import ImageDecoderConfig, LanguageModelConfig, VisualTokenizerConfig
from models.frozen import PAPER_FROZEN, freeze
from trainer.config import EncoderPretrainingConfig, OptimConfig, TrainConfig
from trainer.cost.estimate import batch_shape
from trainer.data.config import DataConfig
from trainer.data.stream import Stream
from trainer.recipes import RECIPES
from trainer.step.accumulate import Chunks, accumulate
from trainer.step.frozen_weights import keep_frozen_in
from trainer.step.optimizer import make_optimizer
from trainer.system_config import MemoryConfig


def large_run(*, tiny: bool) -> TrainConfig:
    """Two rows of 2,048 tokens of the emoji world at 256 pixels a step; `tiny`: the same with a few numbers."""
    small = RECIPES["tiny"]()
    run = replace(
        small,
        recipe="large",
        encoder_pretraining=EncoderPretrainingConfig(),
        frozen=list(PAPER_FROZEN),
        precision="bfloat16",
        memory=MemoryConfig(
            image_chunk=2, token_chunk=16, activation_checkpointing=["vision_encoder", "language_model"]
        ),
        ema_decay=0.0,
    )
    if tiny:
        return run
    return replace(
        run,
        model=large_model(),
        data=DataConfig(num_rows=2, row_tokens=2048),
        optim=OptimConfig(unet_lr_factor=0.1),
        memory=replace(run.memory, image_chunk=16, token_chunk=1024),
    )


def large_model() -> MMInterleavedConfig:
    """A language model of 1.3 B parameters, an encoder of CLIP ViT-L's size, a U-Net and a VAE of Stable Diffusion 2's.
    The patches have 16 pixels, so that the world's images are read and drawn at the same size."""
    released = MMInterleavedConfig.released_13b()
    return MMInterleavedConfig(
        visual_tokenizer=VisualTokenizerConfig(
            vision_encoder={**released.visual_tokenizer.vision_encoder, "image_size": 256, "patch_size": 16},
            num_visual_tokens=32,
        ),
        language_model=LanguageModelConfig(
            transformer={
                **released.language_model.transformer,
                "vocab_size": 32_000,
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_hidden_layers": 22,
                "num_attention_heads": 32,
            }
        ),
        image_decoder=ImageDecoderConfig(
            unet={**released.image_decoder.unet, "sample_size": 32},
            image_size=256,
            vae=released.image_decoder.vae,
        ),
    )


class LargeStep:
    """A whole step, data aside: forward, backward, clipping, update.

    Args:
        config: of `large_run`.
        device: where.
        backend: what compiles the components that `config.compile` names.
    """

    def __init__(self, config: TrainConfig, device: str, backend: str = "inductor") -> None:
        self._config = config
        torch.manual_seed(config.seed)
        with torch.device(device):
            self._model = MMInterleaved(config.model).train()
        freeze(self._model, config.frozen)
        enable_activation_checkpointing(self._model, config.memory.activation_checkpointing)
        compile_components(self._model, config.compile, backend=backend)
        self._dtype = getattr(torch, config.precision)
        keep_frozen_in(self._model, self._dtype)
        self._optimizer = make_optimizer(self._model, config.optim)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self.shape = batch_shape(config, config.data.num_rows)
        stream = Stream(config.data, config.model, seed=config.seed)
        self._batch = stream.part(config.num_steps, range(config.data.num_rows)).to(torch.device(device))

    def __call__(self) -> float:
        """Make the step; returns the norm of its gradient."""
        accumulate(
            self._model,
            self._batch,
            num_targets=self.shape.num_targets,
            num_drawn=self.shape.num_drawn,
            chunks=Chunks(images=self._config.memory.image_chunk, tokens=self._config.memory.token_chunk),
            dtype=self._dtype,
        )
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.optim.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)
