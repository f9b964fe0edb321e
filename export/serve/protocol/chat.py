"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from export.serve.content.encoded import EncodedImage, EncodedPreview
from export.serve.content.references import Part, kept_address
from export.serve.engine.events import Completed
from export.serve.errors import invalid
from export.serve.protocol.answer import FINISH_REASONS, AnswerEvent, Usage, facts_of
from export.serve.protocol.content import Message, Wire, image_place, text_place
from export.serve.protocol.options import (
    LIBRARY_NAMES,
    ImageFormat,
    OptionLimits,
    Options,
    Template,
    parse_options,
    refuse_what_is_missing,
)
from export.serve.protocol.templates import Turn, lay_out
from export.serve.protocol.validation import validated
from models.generation.generated import Progress
from models.json_files import shortened

FIELDS = frozenset({"model", "messages", "stream", "stream_options", "modalities", "mmfs", *LIBRARY_NAMES})
MODES = {("text",): "text", ("image",): "image", ("image", "text"): "auto"}
"""`modalities`, sorted, to the library's mode."""


class StreamOptions(Wire):
    """What a stream is to hold."""

    include_usage: bool = False


class ChatBody(Wire):
    """What of a request is no option."""

    model: str | None = None
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    modalities: list[str] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A request that has been understood."""

    parts: list[Part]
    options: Options
    stream: bool
    include_usage: bool
    ignored: list[str]


def parse_chat(
    body: Mapping[str, Any], limits: OptionLimits, *, image_format: ImageFormat = "images", template: Template
) -> ChatRequest:
    """Understand a request.

    Args:
        body: the JSON object.
        limits: of its options.
        image_format: which the name of the model asks for.
        template: of the model.

    Raises:
        RequestError: it is none; the message says where.
    """
    chat = validated(ChatBody, body)
    ignored = refuse_what_is_missing(body, FIELDS)
    modalities = tuple(sorted(set(chat.modalities or ("text", "image"))))
    if modalities not in MODES:
        raise invalid(f"modalities is {shortened(chat.modalities)}; expected some of 'text' and 'image'.", "modalities")
    mode = MODES[modalities] if chat.modalities else None
    options = parse_options(body, limits, mode=mode, image_format=image_format, template=template)
    include_usage = chat.stream_options is not None and chat.stream_options.include_usage
    turns = [Turn(one.role, list(one.parts(f"messages[{i}]"))) for i, one in enumerate(chat.messages)]
    parts = lay_out(turns, options.template)
    return ChatRequest(parts, options, bool(chat.stream), include_usage, ignored)


@dataclass
class _Choice:
    """One continuation, as far as it is written."""

    text: str = ""
    images: list[EncodedImage] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)
    completed: Completed | None = None
    finish: str = ""


class ChatAnswer:
    """The answer to one request, of which `stream` tells a piece at a time and `whole` all of it.

    Args:
        id: "chatcmpl-...".
        model: as the request named it.
        created: seconds since 1970.
        request: what was asked.
        seeds: of its continuations.
        public_url: of this server, for links to images.
        num_visual_tokens: of an image that is read.
    """

    def __init__(
        self,
        *,
        id: str,
        model: str,
        created: int,
        request: ChatRequest,
        seeds: Sequence[int],
        public_url: str,
        num_visual_tokens: int,
    ) -> None:
        self.head = {"id": id, "created": created, "model": model}
        self.request = request
        self.seeds = seeds
        self.image_format = request.options.image_format
        self.public_url = public_url
        self.num_visual_tokens = num_visual_tokens
        self.choices = [_Choice() for _ in seeds]

    def opening(self) -> Iterator[dict[str, Any]]:
        """What a stream begins with, before anything is computed: clients stop only what has begun."""
        for number in range(len(self.choices)):
            yield self._chunk(number, {"role": "assistant", "content": ""})

    def add(self, number: int, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """Take an event of a continuation; what a stream says of it."""
        choice = self.choices[number]
        match event:
            case str():
                self._write(choice, event)
                yield self._chunk(number, {"content": event})
            case Progress(index=index, step=step, num_steps=num_steps):
                progress = {"index": index, "step": step, "steps": num_steps}
                yield self._chunk(number, {"mmfs": {"progress": progress}})
            case EncodedPreview(step=step, num_steps=num_steps):
                progress = {"index": len(choice.images), "step": step, "steps": num_steps}
                yield self._chunk(number, {"mmfs": {"progress": progress, "preview": {"url": event.data_url}}})
            case EncodedImage():
                yield self._chunk(number, self._draw(choice, event))
            case Completed():
                choice.completed, choice.finish = event, event.finished.finish_reason
                chunk = self._chunk(number, {}, FINISH_REASONS[choice.finish])
                yield chunk | {"mmfs": facts_of(event, self.seeds[number], self.request.ignored)}

    def cancel(self, number: int) -> Iterator[dict[str, Any]]:
        """The client asked for the end of a continuation, which keeps what it has."""
        self.choices[number].finish = "cancelled"
        chunk = self._chunk(number, {}, FINISH_REASONS["cancelled"])
        yield chunk | {"mmfs": {"finish": "cancelled", "seed": self.seeds[number]}}

    def closing(self) -> Iterator[dict[str, Any]]:
        """What a stream ends with."""
        if self.request.include_usage:
            first = self.choices[0].completed
            facts = {} if first is None else {"mmfs": facts_of(first, self.seeds[0], self.request.ignored)}
            yield {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage(), **facts}

    def whole(self) -> dict[str, Any]:
        """The answer without a stream, when all continuations have ended."""
        choices = [
            {
                "index": number,
                "message": self._message(choice),
                "logprobs": None,
                "finish_reason": FINISH_REASONS[choice.finish],
            }
            for number, choice in enumerate(self.choices)
        ]
        first = self.choices[0].completed
        facts = {"finish": "cancelled"} if first is None else facts_of(first, self.seeds[0], self.request.ignored)
        return {
            **self.head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage(),
            "mmfs": facts | ({"seeds": list(self.seeds)} if len(self.seeds) > 1 else {}),
        }

    def _usage(self) -> dict[str, Any]:
        completed = [choice.completed for choice in self.choices if choice.completed is not None]
        return (Usage.of(completed, self.num_visual_tokens) if completed else Usage(0, 0, 0, 0, 0)).of_chat()

    def _chunk(self, number: int, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice]}

    def _write(self, choice: _Choice, text: str) -> None:
        choice.text += text
        if choice.places and choice.places[-1]["type"] == "text":
            choice.places[-1]["text"] += text
        else:
            choice.places.append(text_place(text))

    def _draw(self, choice: _Choice, image: EncodedImage) -> dict[str, Any]:
        """Take an image; the delta that tells of it."""
        index = len(choice.images)
        choice.images.append(image)
        if self.image_format == "markdown":
            link = f"![image {index + 1}]({kept_address(self.public_url, image.digest)})"
            self._write(choice, link)
            return {"content": link}
        choice.places.append(image_place(index))
        entry = _image_entry(image, index)
        return {"content": [entry]} if self.image_format == "parts" else {"images": [entry]}

    def _message(self, choice: _Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if self.image_format == "parts":
            message["content"] = [
                place if place["type"] == "text" else _image_entry(choice.images[place["index"]], place["index"])
                for place in choice.places
            ]
        elif self.image_format == "images":
            message["images"] = [_image_entry(image, index) for index, image in enumerate(choice.images)]
            message["mmfs"] = {"content": choice.places}
        return message


def _image_entry(image: EncodedImage, index: int) -> dict[str, Any]:
    """An image as OpenRouter has it, which is a content part too."""
    return {"type": "image_url", "index": index, "image_url": {"url": image.data_url}}
