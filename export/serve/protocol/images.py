"""`POST /v1/images/generations`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from export.serve.content.encoded import EncodedImage, EncodedPreview
from export.serve.content.references import kept_address
from export.serve.engine.events import Completed
from export.serve.errors import invalid
from export.serve.protocol.answer import AnswerEvent, Usage, facts_of
from export.serve.protocol.content import Wire
from export.serve.protocol.options import OptionLimits, Options, parse_options, refuse_what_is_missing
from export.serve.protocol.partial_images import checked_partial_images
from export.serve.protocol.validation import validated

OPTIONS = {"n": "num_return_sequences", "seed": "seed"}
FIELDS = frozenset(
    {"model", "prompt", "stream", "partial_images", "size", "response_format", "output_format", "background", "mmfs"}
    | set(OPTIONS)
)
WITHOUT_EFFECT = frozenset({"quality", "style", "moderation", "output_compression"})


class ImagesBody(Wire):
    """What of a request is no option."""

    prompt: str
    stream: bool | None = None
    partial_images: int | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png"] | None = None
    background: Literal["auto", "opaque"] | None = None


@dataclass(frozen=True)
class ImagesRequest:
    """A request that has been understood."""

    prompt: str
    options: Options
    partial_images: int
    stream: bool
    as_links: bool
    ignored: list[str]


def parse_images(body: Mapping[str, Any], limits: OptionLimits, drawn_size: tuple[int, int]) -> ImagesRequest:
    """Understand a request.

    Args:
        body: the JSON object.
        limits: of its options.
        drawn_size: (height, width) of what the model draws.

    Raises:
        RequestError: it is none; the message says where.
    """
    asked = validated(ImagesBody, body)
    ignored = refuse_what_is_missing({name: body[name] for name in body if name not in WITHOUT_EFFECT}, FIELDS)
    own_size = f"{drawn_size[1]}x{drawn_size[0]}"
    if asked.size not in (None, "auto", own_size):
        raise invalid(f"size is {asked.size!a}; this model draws {own_size!r}, which is also 'auto'.", "size")
    partial_images = checked_partial_images(asked.partial_images, "partial_images")
    options = parse_options(body, limits, mode="image", names=OPTIONS)
    return ImagesRequest(
        prompt=asked.prompt,
        options=options,
        partial_images=partial_images,
        stream=bool(asked.stream),
        as_links=asked.response_format == "url",
        ignored=ignored,
    )


class ImagesAnswer:
    """The answer to one request.

    Args:
        created: seconds since 1970.
        request: what was asked.
        seeds: of the images.
        public_url: of this server, for links to images.
        num_visual_tokens: of an image that is read.
    """

    def __init__(
        self, *, created: int, request: ImagesRequest, seeds: Sequence[int], public_url: str, num_visual_tokens: int
    ) -> None:
        self.created = created
        self.request = request
        self.seeds = seeds
        self.public_url = public_url
        self.num_visual_tokens = num_visual_tokens
        self.images: list[list[EncodedImage]] = [[] for _ in seeds]
        self.completed: dict[int, Completed] = {}
        self._num_previews = [0] * len(seeds)

    def add(self, number: int, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """Take an event of a continuation; what a stream says of it."""
        match event:
            case EncodedPreview():
                index = self._num_previews[number]
                self._num_previews[number] += 1
                if index < self.request.partial_images:
                    size = {"partial_image_index": index, "b64_json": event.base64, "size": "auto"}
                    yield {"type": "image_generation.partial_image", **size, **self._common()}
            case EncodedImage():
                self.images[number].append(event)
            case Completed():
                self.completed[number] = event
                usage = Usage.of([event], self.num_visual_tokens).of_images()
                for image in self.images[number]:
                    yield {
                        "type": "image_generation.completed",
                        "b64_json": image.base64,
                        "size": image.size,
                        "usage": usage,
                        "mmfs": facts_of(event, self.seeds[number], self.request.ignored),
                        **self._common(),
                    }

    def whole(self) -> dict[str, Any]:
        """The answer without a stream."""
        completed = [self.completed[number] for number in sorted(self.completed)]
        images = [image for drawn in self.images for image in drawn]
        answer: dict[str, Any] = {
            "created": self.created,
            "data": [self._entry(image) for image in images],
            "background": "opaque",
            "output_format": "png",
        }
        if images:
            answer["size"] = images[0].size
        if completed:
            answer["usage"] = Usage.of(completed, self.num_visual_tokens).of_images()
            answer["mmfs"] = facts_of(completed[0], self.seeds[0], self.request.ignored) | {"seeds": list(self.seeds)}
        return answer

    def _entry(self, image: EncodedImage) -> dict[str, Any]:
        if self.request.as_links:
            return {"url": kept_address(self.public_url, image.digest)}
        return {"b64_json": image.base64}

    def _common(self) -> dict[str, Any]:
        return {"background": "opaque", "created_at": self.created, "output_format": "png", "quality": "auto"}
