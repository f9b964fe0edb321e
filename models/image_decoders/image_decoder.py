"""What every diffusion image decoder does (paper 3.2): a condition and image features in, a denoising loss or an image
out. The condition differs from U-Net to U-Net; each kind has its own file in this folder.

Letters: M images to draw, K context length, C language-model width, n context tokens, N images of the bank, S pyramid
pixels, H heads, D channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from models.component_configs import ImageDecoderConfig
from models.denoising import Denoiser
from models.denoising_options import Denoising
from models.image_codec import LatentCodec, PixelCodec
from models.image_decoders.condition import Condition
from models.image_decoders.torch_drawings import DrawnTogether, TorchDrawings
from models.number_options import real_number
from models.position import sincos_1d
from models.qformer import QFormer
from models.resampler import Resampler
from models.sampling_recorder import SamplingRecorder
from models.synchronized_unet import SynchronizedUNet

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
"""What a U-Net may predict: the noise (paper Eq. 3), the velocity, or the image itself."""

IMAGE_DROP_SALT = 0x1D4A6E
"""Turns an image's key into another seed, so that dropping the images is independent of the noise."""


class ImageDecoder(nn.Module, ABC):
    """Resampler of the language model's states, U-Net with MMFS, and the codec between latents and pixels.

    A subclass makes the condition that its U-Net takes: `condition`, `negative` and, if tokens of the
    resampler go anywhere else than into the cross-attention, `num_extra_tokens`. `models/image_decoders/make.py`
    chooses it by the U-Net's arguments.

    Args:
        config: sizes and choices.
        context_dim: C.
        feature_dim: width of the image features.
        spatial_shapes: (h, w) of the pyramid's levels.
        unet: a U-Net that was loaded already and fits `config.unet`. None: a new one.
        vae: the same of `config.vae`.

    Raises:
        ValueError: a side of the drawn image is no multiple of what one latent pixel covers, or the noise schedule has
            another prediction type than `PREDICTION_TYPES`.
    """

    num_extra_tokens: ClassVar[int] = 0
    """Tokens that the resampler makes in addition to the n that the cross-attention reads; they come last."""

    def __init__(
        self,
        config: ImageDecoderConfig,
        *,
        context_dim: int,
        feature_dim: int,
        spatial_shapes: Sequence[tuple[int, int]],
        unet: UNet2DConditionModel | None = None,
        vae: AutoencoderKL | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if unet is None:
            unet = UNet2DConditionModel(**config.unet)
        cross_dim = unet.config.cross_attention_dim
        self.context_proj = nn.Linear(context_dim, context_dim)
        sizes = {
            "num_queries": config.num_context_tokens + self.num_extra_tokens,
            "dim": cross_dim,
            "input_dim": context_dim,
            "num_layers": config.resampler_layers,
            "num_heads": config.resampler_heads,
        }
        self.resampler: Resampler | QFormer
        if config.qformer is None:
            self.resampler = Resampler(**sizes, output_dim=cross_dim)
        else:
            self.resampler = QFormer(**sizes, output_dim=None, **asdict(config.qformer))
        self.negative_context = nn.Parameter(torch.randn(config.num_context_tokens, cross_dim) * 0.02)
        self.unet = SynchronizedUNet(
            unet,
            feature_dim=feature_dim,
            spatial_shapes=spatial_shapes,
            mmfs=config.mmfs,
            placement=config.mmfs_placement,
            position_table=config.mmfs_position_table,
        )
        self.codec = PixelCodec(config.pixel_fold) if config.vae is None else LatentCodec(config, vae)
        height, width = config.drawn_image_size
        if height % self.latent_px or width % self.latent_px:
            raise ValueError(
                f"image_decoder.image_size is {config.image_size}; expected multiples of {self.latent_px}, the pixels "
                "that one latent pixel covers each way."
            )
        for name in ("beta_start", "beta_end"):
            if name in config.scheduler:
                real_number(f"scheduler.{name}", config.scheduler[name], above=0, most=1)
        self.noise_schedule = DDPMScheduler(**config.scheduler)
        kind = self.noise_schedule.config.prediction_type
        if kind not in PREDICTION_TYPES:
            raise ValueError(f"scheduler has prediction_type {kind!r}; expected one of {', '.join(PREDICTION_TYPES)}.")

    @abstractmethod
    def condition(self, context: Tensor, exists: Tensor) -> Condition:
        """The condition of the U-Net.

        Args:
            context: [M, K, C], nearest state (the image's `<BoI>`) first, so that position 0 is always the nearest.
            exists: [M, K] bool.
        """

    @abstractmethod
    def negative(self, condition: Condition) -> Condition:
        """The learned condition "no text" in place of this one, of the same sizes and dtypes: for classifier-free
        guidance, and where training drops the text."""

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one image's part of each tensor of a condition, by its name in `Condition.named`."""
        return {"encoder_hidden_states": tuple(self.negative_context.shape)}

    def read_context(self, context: Tensor, exists: Tensor) -> Tensor:
        """Language-model states to tokens, [M, n + extra, cross_attention_dim]; arguments as for `condition`."""
        context = context.to(self.negative_context.dtype)
        positions = sincos_1d(context.shape[1], context.shape[2], device=context.device).to(context.dtype)
        return self.resampler(self.context_proj(context) + positions, exists)

    def loss(
        self, pixels: Tensor, condition: Condition, *, values: Sequence[Tensor], visible: Tensor, keys: Tensor
    ) -> Tensor:
        """Denoising error of each image (paper Eq. 3), [M] float32: squared, averaged over the pixels of one image.

        Args:
            pixels: [M, 3, h, w] float32 in [0, 1], the truth at the output resolution.
            condition: of M images, from `condition`.
            values: per synchronizer [N, S, H, D].
            visible: [M, 2] int64, range of images of the bank that each drawn image may attend to.
            keys: [M] int64; noise, time step and condition drop of an image are functions of its key alone, so they
                do not depend on which images share the batch or on the number of processes. Conditions are dropped in
                training mode only (the release drops them in evaluation too).
        """
        noise, posterior_noise, timestep, dropped = self._draw_noise(keys, pixels)
        if self.training:
            condition = condition.replaced_where(dropped, self.negative(condition))
            if self.config.image_drop:
                visible = visible * self._keeps_images(keys).to(visible)[:, None]  # [0, 0): no image
        return self.denoising_error(pixels, condition, noise, posterior_noise, timestep, values=values, visible=visible)

    def denoising_error(
        self,
        pixels: Tensor,
        condition: Condition,
        noise: Tensor,
        posterior_noise: Tensor,
        timestep: Tensor,
        *,
        values: Sequence[Tensor],
        visible: Tensor,
    ) -> Tensor:
        """`loss` with given noise and no dropped conditions.

        Args:
            pixels, condition, values, visible: as in `loss`.
            noise: [M, *latent_shape] float32, of the diffusion.
            posterior_noise: the same, of the VAE's posterior.
            timestep: [M] int64.
        """
        latents = self.codec.encode(pixels, posterior_noise)
        noisy = self.noise_schedule.add_noise(latents, noise, timestep)
        tokens, added = condition.tokens, condition.added
        predicted = self.unet(noisy.to(tokens.dtype), timestep, tokens, added, values=values, visible=visible)
        target = self._target(latents, noise, timestep)
        return F.mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(1)

    def _target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the U-Net has to predict, by the schedule's prediction type."""
        kind = self.noise_schedule.config.prediction_type
        if kind == "v_prediction":
            return self.noise_schedule.get_velocity(latents, noise, timestep)
        return latents if kind == "sample" else noise

    def _draw_noise(self, keys: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = self.latent_shape
        noise = torch.empty(2, len(keys), *shape)  # of the diffusion, of the VAE's posterior
        timestep = torch.empty(len(keys), dtype=torch.int64)
        dropped = torch.empty(len(keys), dtype=torch.bool)
        for i, key in enumerate(keys.tolist()):
            generator = torch.Generator().manual_seed(key)
            noise[:, i] = torch.randn(2, *shape, generator=generator)
            timestep[i] = self._draw_timestep(generator)
            dropped[i] = torch.rand((), generator=generator) < self.config.text_drop
        return *noise.to(pixels), timestep.to(pixels.device), dropped.to(pixels.device)

    def _draw_timestep(self, generator: torch.Generator) -> Tensor:
        num_steps, multiplier = self.noise_schedule.config.num_train_timesteps, self.config.timestep_bias_multiplier
        if multiplier == 1:
            return torch.randint(num_steps, (), generator=generator)
        first_of_noisiest = num_steps - round(self.config.timestep_bias_portion * num_steps)
        weight_of_noisiest = multiplier * (num_steps - first_of_noisiest)
        share = weight_of_noisiest / (weight_of_noisiest + first_of_noisiest)
        is_noisy = torch.rand((), generator=generator) < share
        low, high = (first_of_noisiest, num_steps) if is_noisy else (0, first_of_noisiest)
        return torch.randint(low, high, (), generator=generator)

    def _keeps_images(self, keys: Tensor) -> Tensor:
        """Whose image condition is not dropped, [M] bool."""
        draws = torch.empty(len(keys))
        for i, key in enumerate(keys.tolist()):
            draws[i] = torch.rand((), generator=torch.Generator().manual_seed(key ^ IMAGE_DROP_SALT))
        return draws >= self.config.image_drop

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image as the U-Net sees it."""
        height, width = self.config.drawn_image_size
        vae = self.codec.vae if isinstance(self.codec, LatentCodec) else None
        channels = 3 * self.latent_px**2 if vae is None else vae.config.latent_channels
        return channels, height // self.latent_px, width // self.latent_px

    @property
    def latent_px(self) -> int:
        """Side of the square of an image that one latent pixel covers."""
        if isinstance(self.codec, LatentCodec):
            return 2 ** (len(self.codec.vae.config.block_out_channels) - 1)
        return self.codec.fold

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        *,
        values: Sequence[Tensor],
        visible: Tensor,
        seeds: Sequence[int],
        denoising: Denoising,
    ) -> Tensor:
        """Draw images: [M, 3, h, w] float32 in [0, 1]; arguments and errors as for `begin_drawing`."""
        *_, last = self.begin_drawing(
            condition, values=values, visible=visible, seeds=seeds, denoising=denoising
        ).steps()
        return self.decode(last.latents)

    def begin_drawing(
        self,
        condition: Condition,
        *,
        values: Sequence[Tensor],
        visible: Tensor,
        seeds: Sequence[int],
        denoising: Denoising,
        recorder: SamplingRecorder | None = None,
    ) -> TorchDrawings:
        """Images before their first step, drawn with classifier-free guidance.

        Args:
            condition: of M images, from `condition`.
            values: per synchronizer [N, S, H, D].
            visible: [M, 2] int64, the images that each drawn image may attend to.
            seeds: M numbers; each alone determines all that is random about its image.
            denoising: steps, scheduler and guidance.
            recorder: of what the U-Net's synchronizers ask of the op. None: it is not recorded.

        Returns:
            The images; their latents after the last step are for `decode`.

        Raises:
            ValueError: more steps than the model was trained with.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(self.latent_shape, generator=one) for one in generators])
        denoiser = Denoiser(noise.to(condition.tokens.device), self.noise_schedule, denoising, generators)
        num_without = denoising.num_predictions - 1
        if num_without:
            condition = Condition.cat([*[self.negative(condition)] * num_without, condition])
            visible = torch.cat([*[torch.zeros_like(visible)] * (num_without - 1), visible, visible])
        return TorchDrawings(self.unet, [DrawnTogether(denoiser, condition, values, visible)], recorder)

    def decode(self, latents: Tensor) -> Tensor:
        """[M, c, h', w'] to images [M, 3, h, w] float32 in [0, 1]."""
        return self.codec.decode(latents).float()
