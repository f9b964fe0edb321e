"""The paper's Figure 3 as one forward pass: packed documents in, the losses of their texts and images out.

Letters: B rows, T tokens a row, C language-model width, N images of the bank, S pyramid pixels, F feature width,
M drawn images, n visual tokens an image, K supervised tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.batch import IGNORED, Batch
from models.config import MMInterleavedConfig
from models.image_decoders.make import make_image_decoder
from models.language_model import LanguageModel
from models.lora_config import LoraConfig
from models.pretrained.snapshots import PretrainedComponents
from models.sequence import attention_mask, documents, gather_context, image_visible, position_ids, token_visible
from models.visual_tokenizer import VisualTokenizer


@dataclass(frozen=True)
class Output:
    """Losses of one batch; the sums and counts let a trainer average over more than one batch."""

    loss: Tensor
    """`loss_text + image_loss_weight * loss_image` (paper Eq. 5)."""

    loss_text: Tensor
    """Mean cross-entropy over the supervised tokens (paper Eq. 2); 0 without any."""

    loss_image: Tensor
    """Mean denoising error over the drawn images (paper Eq. 3); 0 without any."""

    text_loss_sum: Tensor
    num_targets: int
    image_loss_sum: Tensor
    num_drawn: int


class Network(nn.Module):
    """The three components of MM-Interleaved and what flows between them (paper Section 3).

    Args:
        config: sizes and choices.
        pretrained: pre-trained networks that fit `config`. None: new ones.
    """

    def __init__(self, config: MMInterleavedConfig, pretrained: PretrainedComponents | None = None) -> None:
        super().__init__()
        self.config = config
        self.lora: LoraConfig | None = None  # of the adapters in the language model
        lm_hidden = config.language_model.transformer["hidden_size"]
        vision_encoder = None if pretrained is None else pretrained.vision_encoder
        self.visual_tokenizer = VisualTokenizer(config.visual_tokenizer, lm_hidden, vision_encoder)
        shapes, feature_dim = self.visual_tokenizer.spatial_shapes, self.visual_tokenizer.dim
        self.language_model = LanguageModel(
            config.language_model,
            feature_dim=feature_dim,
            spatial_shapes=shapes,
            host=pretrained and pretrained.language_model,
        )
        self.begin_of_image = nn.Parameter(torch.zeros(lm_hidden))  # added to the embedding of <BoI>
        self.image_decoder = make_image_decoder(
            config.image_decoder,
            context_dim=lm_hidden,
            feature_dim=feature_dim,
            spatial_shapes=shapes,
            unet=pretrained and pretrained.unet,
            vae=pretrained and pretrained.vae,
        )

    def forward(self, batch: Batch) -> Output:
        """Both losses of a batch of packed documents."""
        text_losses, hidden, features = self.read(batch)
        return self._output(text_losses.sum(), self.image_losses(hidden, features, batch).sum(), batch)

    def read(self, batch: Batch, *, token_chunk: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Everything but the image decoder.

        Args:
            batch: packed documents.
            token_chunk: see `text_losses`.

        Returns:
            [K] text losses of the supervised tokens, [B, T, C] hidden states, and [N, S, F] image features.
        """
        packing = self.config.language_model.packing
        visual_tokens, features = self.visual_tokenizer(batch.pixel_values)  # [N, n, C], [N, S, F]
        hidden = self.language_model(
            self.embed(batch.input_ids, visual_tokens, batch.image_positions),
            position_ids=position_ids(batch, packing),
            mask=(documents if self.language_model.attends_by_document else attention_mask)(batch, packing),
            values=self.language_model.project_values(features),
            visible=token_visible(batch),
        )  # [B, T, C]
        return self.text_losses(hidden, batch, token_chunk), hidden, features

    def embed(self, input_ids: Tensor, visual_tokens: Tensor, image_positions: Tensor) -> Tensor:
        """Word embeddings with the visual tokens in their places, [B, T, C].

        Args:
            input_ids: [B, T] int64.
            visual_tokens: [N, n, C].
            image_positions: [N, 2] int64, row and column of each image's first visual token.
        """
        embeddings = self.language_model.embed(input_ids)
        begins = (input_ids == self.config.begin_of_image_id).unsqueeze(-1)
        embeddings = embeddings + begins * self.begin_of_image.to(embeddings.dtype)
        row, column = image_positions.unsqueeze(1).unbind(-1)  # [N, 1] each
        column = column + torch.arange(visual_tokens.shape[1], device=column.device)
        return embeddings.index_put((row.expand_as(column), column), visual_tokens.to(embeddings.dtype))

    def text_losses(self, hidden: Tensor, batch: Batch, token_chunk: int | None = None) -> Tensor:
        """Next-text-token prediction (paper Eq. 2): cross-entropy of each supervised token, row by row, [K] float32.

        Args:
            hidden: [B, T, C].
            batch: the rows it was computed from.
            token_chunk: compute the logits of so many tokens at a time, and again for the gradient. None: of all
                tokens at once.
        """
        supervised = batch.targets != IGNORED
        states, targets = hidden[supervised], batch.targets[supervised]
        if token_chunk is None or len(targets) <= token_chunk:
            return self._cross_entropy(states, targets)
        pieces = zip(states.split(token_chunk), targets.split(token_chunk), strict=True)
        return torch.cat([checkpoint(self._cross_entropy, *piece, use_reentrant=False) for piece in pieces])

    def _cross_entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.language_model.logits(states).float(), targets, reduction="none")

    def image_losses(self, hidden: Tensor, features: Tensor, batch: Batch, which: slice = slice(None)) -> Tensor:
        """Next-image prediction (paper Eq. 3): the denoising error of each drawn image, [M] float32.

        Args:
            hidden: [B, T, C].
            features: [N, S, F].
            batch: the rows they were computed from.
            which: of the drawn images; only the features that these may attend to are used.
        """
        chosen = replace(
            batch,
            drawn=batch.drawn[which],
            drawn_pixels=batch.drawn_pixels[which],
            drawn_keys=batch.drawn_keys[which],
        )
        if len(chosen.drawn) == 0:
            return hidden.new_zeros(0, dtype=torch.float32)
        condition = self.image_decoder.condition(*gather_context(hidden, chosen))
        visible = image_visible(chosen, self.config.image_decoder.context_images)  # [M, 2]
        first, last = int(visible[:, 0].min()), int(visible[:, 1].max())
        return self.image_decoder.loss(
            chosen.drawn_pixels,
            condition,
            values=self.image_decoder.unet.project_values(features[first:last]),
            visible=visible - first,
            keys=chosen.drawn_keys,
        )

    def _output(self, text_loss_sum: Tensor, image_loss_sum: Tensor, batch: Batch) -> Output:
        num_targets, num_drawn = int((batch.targets != IGNORED).sum()), len(batch.drawn)
        loss_text = text_loss_sum / max(num_targets, 1)
        loss_image = image_loss_sum / max(num_drawn, 1)
        return Output(
            loss=loss_text + self.config.image_loss_weight * loss_image,
            loss_text=loss_text,
            loss_image=loss_image,
            text_loss_sum=text_loss_sum,
            num_targets=num_targets,
            image_loss_sum=image_loss_sum,
            num_drawn=num_drawn,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.begin_of_image.device
