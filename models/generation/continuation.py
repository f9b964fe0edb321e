"""One document while it is continued: which token comes next, what text is certain, when it ends."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from models.config import MMInterleavedConfig
from models.generation.detokenizer import IncrementalDetokenizer
from models.generation.documents import Document
from models.generation.generated import Finished, FinishReason
from models.generation.options import GenerationOptions
from models.generation.recorded_queries import RecordedQueries
from models.generation.sampling_locations import SamplingLocations
from models.generation.state import Piece
from models.generation.token_sampler import TokenSampler
from models.processor import MMInterleavedProcessor


class Continuation:
    """What is written of one document's continuation. Somebody else reads and draws.

    Args:
        options: of `generate`.
        processor: of the model.
        config: of the model.
        seed: of the sampling and of the first image.
        prompt: what is read of the document before, for its sampling locations.
    """

    def __init__(
        self,
        options: GenerationOptions,
        processor: MMInterleavedProcessor,
        config: MMInterleavedConfig,
        seed: int,
        prompt: Document,
    ) -> None:
        self.options, self.processor, self.config, self.seed = options, processor, config, seed
        self.sampler = TokenSampler(options, config, seed)
        self.detokenizer = IncrementalDetokenizer(processor, options.stops)
        self.written: list[int] = []  # text tokens
        self.num_tokens = 0
        self.num_images = 0
        self.wants_image = False
        """`<BoI>` is written, and its image is not drawn yet."""

        self.finish_reason: FinishReason | None = None
        self.sampling_locations: SamplingLocations | None = None
        if options.sampling_locations:
            self.sampling_locations = SamplingLocations(config, processor, prompt, options.stops)
        if options.max_new_tokens == 0:
            self.finish_reason = "max_new_tokens"

    def write(self, logits: Tensor, queries: RecordedQueries | None) -> tuple[str, list[Piece]]:
        """Write the next token.

        Args:
            logits: [vocabulary] float32 on the CPU.
            queries: that the logits follow from, if they are recorded.

        Returns:
            The text that has become certain, and what the document reads next: nothing once it is finished.

        Raises:
            ValueError: the logits hold NaN.
        """
        options, config = self.options, self.config
        may_draw = options.mode != "text" and self.num_images < options.max_new_images
        if options.mode == "image":
            token = config.begin_of_image_id
        else:
            token = self.sampler(logits, self.written, may_draw=may_draw)
        text = ""
        if token == config.eos_token_id:
            self.finish_reason = "end"
        elif token == config.begin_of_image_id:
            self.num_tokens += 1
            self.wants_image = True
            text = self.detokenizer.flush()
        else:
            self.num_tokens += 1
            self.written.append(token)
            text = self.detokenizer.add(token)
            if self.detokenizer.is_stopped:
                self.finish_reason = "stop"
            elif self.num_tokens == options.max_new_tokens:
                self.finish_reason = "max_new_tokens"
        if self.sampling_locations is not None and token != config.eos_token_id:
            self.sampling_locations.add_tokens([token], [queries])
        if self.finish_reason:
            return text + self.detokenizer.flush(), []
        return text, [[token]]

    @property
    def image_seed(self) -> int:
        """Of the image that is drawn next."""
        return self.seed + self.num_images

    def add_image(self, image: Image.Image, queries: Mapping[int, RecordedQueries]) -> list[Piece]:
        """Take the image that was wanted.

        Args:
            image: as it was drawn.
            queries: that were recorded, by denoising step.

        Returns:
            What the document reads next: nothing once it is finished.
        """
        self.wants_image = False
        self.num_images += 1
        if self.sampling_locations is not None:
            self.sampling_locations.add_image(image, queries)
        if self.options.mode == "image" and self.num_images == self.options.max_new_images:
            self.finish_reason = "max_new_images"
        elif self.num_tokens == self.options.max_new_tokens:
            self.finish_reason = "max_new_tokens"
        else:
            return [self.processor.encode_image(image)]
        return []

    def end_for_length(self) -> str:
        """The language model reads no more: the document ends, and this is the rest of its text."""
        self.finish_reason = "length"
        return self.detokenizer.flush()

    def finished(self, num_cut: int, num_prompt_tokens: int, num_cached_tokens: int = 0) -> Finished:
        """The last event of a document that has ended; see `Finished`."""
        assert self.finish_reason is not None, "it has ended"
        return Finished(
            self.finish_reason, num_cut, num_prompt_tokens, self.num_tokens, num_cached_tokens, self.sampling_locations
        )
