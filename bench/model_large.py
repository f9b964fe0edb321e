"""One step each of networks with the sizes of real ones, random weights, in bfloat16.

Letters: N images, S pyramid pixels, K tokens read, C language-model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from bench.model_sides import seconds
from bench.workloads import LLM_LEVELS, SMOKE_LEVELS, UNET_LEVELS
from models import MMInterleavedConfig
from models.component_configs import LanguageModelConfig, SynchronizerConfig
from models.folded_mmfs import FoldedMMFS
from models.language_model import LanguageModel, LanguageSynchronizer
from models.synchronized_unet import SynchronizedUNet, UNetSynchronizer

GATE = 0.3
LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
TINY_LLAMA = LLAMA_7B | {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
}
TINY_SYNCHRONIZER = SynchronizerConfig(num_heads=2, num_points=2, value_dim=16)


class FullCache:
    """Keys and values of K tokens, of which each call replaces the last: every step is the same."""

    def __init__(self, keys_and_values: Tensor) -> None:
        self.kept = keys_and_values  # [layers, 2, 1, heads, K, channels a head]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        self.kept[layer, :, :, :, -1:] = torch.stack([key, value])
        return self.kept[layer, 0], self.kept[layer, 1]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.kept.shape[-2] - 1


class DecodingStep:
    """One token behind 1024 others and four images.

    Args:
        device: where.
        tiny: the same with a few numbers.
    """

    @torch.no_grad()
    def __init__(self, device: str, *, tiny: bool) -> None:
        sizes, levels, width = (TINY_LLAMA, SMOKE_LEVELS, 16) if tiny else (LLAMA_7B, LLM_LEVELS, 1024)
        num_tokens = 16 if tiny else 1024
        config = LanguageModelConfig(
            transformer=sizes,
            mmfs=TINY_SYNCHRONIZER if tiny else SynchronizerConfig(),
            mmfs_levels=(0, len(levels)),
            gate_init=GATE,
        )
        with torch.device(device):
            host = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**sizes), dtype=torch.bfloat16, attn_implementation="sdpa"
            )
            model = LanguageModel(config, feature_dim=width, spatial_shapes=levels, host=host)
            self.model = model = model.to(torch.bfloat16).eval()
            features = torch.randn(4, sum(h * w for h, w in levels), width, dtype=torch.bfloat16)
            heads = host.config.num_attention_heads
            self.cache = FullCache(
                torch.randn(
                    *(host.config.num_hidden_layers, 2, 1, heads, num_tokens, model.hidden_size // heads),
                    dtype=torch.bfloat16,
                )
            )
            self.embedding = torch.randn(1, 1, model.hidden_size, dtype=torch.bfloat16)
            self.position_ids = torch.full((1, 1), num_tokens - 1)
            self.mask = torch.ones(1, 1, 1, num_tokens, dtype=torch.bool)
            self.visible = torch.tensor([[[0, 4]]])
        self.values = model.project_values(features)
        self.folded = model.fold()
        for synchronizer in model.synchronizers:
            assert isinstance(synchronizer, LanguageSynchronizer)
            synchronizer.gate.zero_()
        self.folded_closed = model.fold()

    @property
    def bytes_read(self) -> int:
        """Weights and cache that a step has to read; the pixels that MMFS samples are few."""
        weights = [*self.model.decoder.layers.parameters(), *self.model.host.get_output_embeddings().parameters()]
        folded = [tensor for fold in self.folded for tensor in vars(fold).values() if isinstance(tensor, Tensor)]
        return sum(tensor.nbytes for tensor in [*weights, *folded, self.cache.kept])

    def with_mmfs(self) -> Tensor:
        """Logits [1, 1, vocabulary]."""
        return self._logits(self.values, self.folded)

    def closed(self) -> Tensor:
        """The same with closed gates."""
        return self._logits(self.values, self.folded_closed)

    @torch.no_grad()
    def without(self) -> Tensor:
        """The same of the language model alone."""
        hidden = self.model.decoder(
            inputs_embeds=self.embedding,
            position_ids=self.position_ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return self.model.logits(hidden)

    @torch.no_grad()
    def _logits(self, values: list[Tensor], folded: Sequence[FoldedMMFS | None]) -> Tensor:
        hidden = self.model(
            self.embedding,
            position_ids=self.position_ids,
            mask=self.mask,
            values=values,
            visible=self.visible,
            cache=self.cache,
            folded=folded,
        )
        return self.model.logits(hidden)


class UNetStep:
    """One prediction for an image of 512 x 512 pixels that sees two images."""

    @torch.no_grad()
    def __init__(self, device: str, *, tiny: bool) -> None:
        config = MMInterleavedConfig.tiny() if tiny else MMInterleavedConfig.released_13b()
        decoder, width = config.image_decoder, config.visual_tokenizer.vision_encoder["hidden_size"]
        levels = SMOKE_LEVELS if tiny else UNET_LEVELS
        with torch.device(device):
            unet = SynchronizedUNet(
                UNet2DConditionModel(**decoder.unet),
                feature_dim=width,
                spatial_shapes=levels,
                mmfs=decoder.mmfs,
                placement="up",
            )
            self.unet = unet.to(torch.bfloat16).eval()
            side, channels = decoder.unet["sample_size"], decoder.unet["in_channels"]
            self.latents = torch.randn(1, channels, side, side, dtype=torch.bfloat16)
            self.timestep = torch.full((1,), 500)
            shape = (1, decoder.num_context_tokens, decoder.unet["cross_attention_dim"])
            self.context = torch.randn(shape, dtype=torch.bfloat16)
            self.visible = torch.tensor([[0, 2]])
            features = torch.randn(2, sum(h * w for h, w in levels), width, dtype=torch.bfloat16)
        self.values = self.unet.project_values(features)
        self._closed = self.with_mmfs()  # the convolutions start as zero
        for synchronizer in self.unet.synchronizers:
            assert isinstance(synchronizer, UNetSynchronizer)
            nn.init.normal_(synchronizer.conv.weight, std=0.02)

    def closed(self) -> Tensor:
        """The first prediction, made while the synchronizers' convolutions were still zero and MMFS had no effect."""
        return self._closed

    @torch.no_grad()
    def with_mmfs(self) -> Tensor:
        """[1, 4, 64, 64]."""
        return self.unet(self.latents, self.timestep, self.context, values=self.values, visible=self.visible)

    @torch.no_grad()
    def without(self) -> Tensor:
        """The same of the U-Net alone."""
        return self.unet.host(self.latents, self.timestep, encoder_hidden_states=self.context, return_dict=False)[0]


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def bytes_per_s(device: str, num_bytes: int) -> float:
    """Bandwidth of the device's memory, from summing a tensor. num_bytes: its size, more than the caches hold."""
    numbers = torch.ones(num_bytes // 4, device=device)
    return num_bytes / min(seconds(numbers.sum, device) for _ in range(5))
