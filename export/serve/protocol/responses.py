"""`POST /v1/responses`: the form of OpenAI's in which text and images alternate, and previews have a type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from export.serve.content.encoded import EncodedImage, EncodedPreview
from export.serve.content.references import ImageReference
from export.serve.engine.events import Completed
from export.serve.errors import RequestError, invalid
from export.serve.protocol.answer import AnswerEvent, Usage, facts_of
from export.serve.protocol.content import Message, Wire
from export.serve.protocol.options import (
    OptionLimits,
    Options,
    Template,
    parse_options,
    refuse_what_is_missing,
)
from export.serve.protocol.partial_images import checked_partial_images
from export.serve.protocol.templates import Turn
from export.serve.protocol.validation import validated
from models.generation.generated import Progress
from models.json_files import shortened

OPTIONS = {"max_output_tokens": "max_new_tokens", "temperature": "temperature", "top_p": "top_p"}
FIELDS = frozenset(
    {"model", "input", "instructions", "stream", "tools", "tool_choice", "previous_response_id", "store", "truncation"}
    | {"text", "include", "max_tool_calls", "stream_options", "mmfs", *OPTIONS}
)
IMAGE_TOOL = "image_generation"
LIMITED = ("max_new_tokens", "length")
"""Why an answer ended, where it is not complete."""


class ImageTool(Wire):
    """That images may be drawn."""

    type: Literal["image_generation"]
    partial_images: int | None = None


class ToolChoice(Wire):
    """That one is to be drawn now."""

    type: Literal["image_generation"]


class DrawnItem(Wire):
    """An image of an earlier answer."""

    type: Literal["image_generation_call"]
    result: str


class ResponsesBody(Wire):
    """What of a request is no option."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    tools: list[ImageTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None


@dataclass(frozen=True)
class StoredResponse:
    """An answer that a request may go on from."""

    client: str
    """Whose it is."""

    turns: list[Turn]
    """All up to its end, without instructions."""

    response: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory."""
        parts = [part for turn in self.turns for part in turn.parts]
        return sum(len(part if isinstance(part, str) else part.url) for part in parts)


@dataclass(frozen=True)
class ResponsesRequest:
    """A request that has been understood."""

    turns: list[Turn]
    """Those of this request."""

    instructions: str | None
    options: Options
    partial_images: int
    stream: bool
    store: bool
    previous_response_id: str | None
    ignored: list[str]
    echo: dict[str, Any]
    """What of the request the answer repeats."""

    def all_turns(self, earlier: Sequence[Turn]) -> list[Turn]:
        """The whole conversation, of which earlier turns were stored."""
        instructions = [Turn("system", [self.instructions])] if self.instructions else []
        return [*instructions, *earlier, *self.turns]


def parse_responses(body: Mapping[str, Any], limits: OptionLimits, template: Template) -> ResponsesRequest:
    """Understand a request.

    Args:
        body: the JSON object.
        limits: of its options.
        template: of the model.

    Raises:
        RequestError: it is none; the message says where.
    """
    _refuse_other_tools(body)
    asked = validated(ResponsesBody, body)
    ignored = refuse_what_is_missing(body, FIELDS)
    form = body.get("text")
    if form not in (None, {}, {"format": {"type": "text"}}):
        raise invalid(f"text is {shortened(form)}; expected plain text, which is also what comes without it.", "text")
    tool = asked.tools[0] if asked.tools else None
    partial_images = checked_partial_images(None if tool is None else tool.partial_images, "tools[0].partial_images")
    given = dict(body)
    if asked.truncation == "auto":
        given["mmfs"] = {"overflow": "cut", **(body.get("mmfs") or {})}
    options = parse_options(given, limits, mode=_mode(asked, body), template=template, names=OPTIONS)
    turns = [Turn("user", [asked.input])] if isinstance(asked.input, str) else list(_turns(asked.input))
    return ResponsesRequest(
        turns=turns,
        instructions=asked.instructions,
        options=options,
        partial_images=partial_images,
        stream=bool(asked.stream),
        store=asked.store is not False,
        previous_response_id=asked.previous_response_id,
        ignored=ignored,
        echo={
            "instructions": asked.instructions,
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "parallel_tool_calls": True,
            "previous_response_id": asked.previous_response_id,
            "store": asked.store is not False,
            "temperature": options.generation.sampling_temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": options.generation.top_p,
            "truncation": asked.truncation or "disabled",
        },
    )


def _refuse_other_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if kind != IMAGE_TOOL or number > 0:
            raise invalid(
                f"tools[{number}] is of the type {shortened(kind)}; this model has one tool, {IMAGE_TOOL}.",
                f"tools[{number}].type",
            )


def _mode(asked: ResponsesBody, body: Mapping[str, Any]) -> str | None:
    """The library's mode that tools and their choice ask for; None: what `mmfs` says."""
    if asked.tool_choice == "none":
        return "text"
    if isinstance(asked.tool_choice, ToolChoice) or asked.tool_choice == "required":
        if not asked.tools:
            raise invalid(f'tool_choice wants an image, and there is no tool: add {{"type": "{IMAGE_TOOL}"}}.', "tools")
        return "image"
    if asked.tools:
        return "auto"
    own = body.get("mmfs")
    return None if isinstance(own, dict) and (own.get("mode") or own.get("task")) else "text"


def _turns(items: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    for number, item in enumerate(items):
        place = f"input[{number}]"
        kind = item.get("type", "message")
        if kind == "message":
            message = validated(Message, {"content": "", **item}, ("input", number))
            yield Turn(message.role, list(message.parts(place)))
        elif kind == "image_generation_call":
            drawn = validated(DrawnItem, item, ("input", number))
            yield Turn("assistant", [ImageReference(f"data:image/png;base64,{drawn.result}", f"{place}.result")])
        else:
            raise invalid(
                f"{place}.type is {shortened(kind)}; expected 'message' or 'image_generation_call'.", f"{place}.type"
            )


class ResponsesAnswer:
    """The answer to one request, as a stream tells it; `response` is all of it.

    Args:
        id: "resp_...".
        model: as the request named it.
        created: seconds since 1970.
        request: what was asked.
        seed: of the continuation.
        num_visual_tokens: of an image that is read.
    """

    def __init__(
        self, *, id: str, model: str, created: int, request: ResponsesRequest, seed: int, num_visual_tokens: int
    ) -> None:
        self.request = request
        self.seed = seed
        self.num_visual_tokens = num_visual_tokens
        self.output: list[dict[str, Any]] = []
        self.response: dict[str, Any] = {
            "id": id,
            "object": "response",
            "created_at": created,
            "model": model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **request.echo,
        }
        self._item: dict[str, Any] | None = None  # that is being written or drawn
        self._num_partial_images = 0
        self._num_events = 0

    def opening(self) -> Iterator[dict[str, Any]]:
        """What a stream begins with, before anything is computed."""
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def add(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        """Take an event; what a stream says of it."""
        match event:
            case str():
                yield from self._open_text()
                assert self._item is not None
                self._item["content"][0]["text"] += event
                yield self._of_item("response.output_text.delta", content_index=0, delta=event, logprobs=[])
            case Progress():
                yield from self._open_image()
            case EncodedPreview():
                yield from self._open_image()
                if self._num_partial_images < self.request.partial_images:
                    yield self._of_item(
                        "response.image_generation_call.partial_image",
                        partial_image_index=self._num_partial_images,
                        partial_image_b64=event.base64,
                        mmfs={"progress": {"step": event.step, "steps": event.num_steps}},
                    )
                    self._num_partial_images += 1
            case EncodedImage():
                yield from self._open_image()
                assert self._item is not None
                self._item |= {"result": event.base64, "output_format": "png", "size": event.size, "quality": "auto"}
                self._item["background"] = "opaque"
                yield self._of_item("response.image_generation_call.completed")
                yield self._close()
            case Completed():
                yield from self._end(event)

    def cancel(self) -> Iterator[dict[str, Any]]:
        """The client asked for the end of the answer, which keeps what it has."""
        yield from self._close_text()
        self._item = None  # an image that is not complete is none
        self.response |= {"status": "cancelled", "mmfs": {"finish": "cancelled", "seed": self.seed}}
        yield self._event("response.incomplete", response=self._snapshot())

    def fail(self, error: RequestError) -> Iterator[dict[str, Any]]:
        """The answer cannot be completed."""
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": str(error)}}
        yield self._event("response.failed", response=self._snapshot())

    def turns(self) -> list[Turn]:
        """The answer as turns of a conversation."""
        turns = []
        for item in self.output:
            if item["type"] == "message":
                turns.append(Turn("assistant", [item["content"][0]["text"]]))
            else:
                url = f"data:image/png;base64,{item['result']}"
                turns.append(Turn("assistant", [ImageReference(url, "previous_response_id")]))
        return turns

    def _end(self, completed: Completed) -> Iterator[dict[str, Any]]:
        yield from self._close_text()
        is_limited = completed.finished.finish_reason in LIMITED
        self.response |= {
            "status": "incomplete" if is_limited else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_limited else None,
            "usage": Usage.of([completed], self.num_visual_tokens).of_responses(),
            "mmfs": facts_of(completed, self.seed, self.request.ignored),
        }
        yield self._event(f"response.{self.response['status']}", response=self._snapshot())

    def _open_text(self) -> Iterator[dict[str, Any]]:
        if self._item is not None:
            return
        head = {"id": f"msg_{uuid4().hex}", "type": "message", "status": "in_progress", "role": "assistant"}
        self._item = {**head, "content": []}
        yield self._event("response.output_item.added", output_index=len(self.output), item=dict(self._item))
        part = {"type": "output_text", "text": "", "annotations": []}
        self._item["content"] = [part]
        yield self._of_item("response.content_part.added", content_index=0, part=dict(part))

    def _open_image(self) -> Iterator[dict[str, Any]]:
        yield from self._close_text()
        if self._item is not None:
            return
        head = {"id": f"ig_{uuid4().hex}", "type": "image_generation_call", "status": "in_progress"}
        self._item = {**head, "result": None}
        self._num_partial_images = 0
        yield self._event("response.output_item.added", output_index=len(self.output), item=dict(self._item))
        yield self._of_item("response.image_generation_call.in_progress")
        yield self._of_item("response.image_generation_call.generating")

    def _close_text(self) -> Iterator[dict[str, Any]]:
        if self._item is None or self._item["type"] != "message":
            return
        part = self._item["content"][0]
        yield self._of_item("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
        yield self._of_item("response.content_part.done", content_index=0, part=part)
        yield self._close()

    def _close(self) -> dict[str, Any]:
        assert self._item is not None
        item = {**self._item, "status": "completed"}
        event = self._event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self._item = None
        return event

    def _of_item(self, kind: str, **fields: Any) -> dict[str, Any]:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=len(self.output), **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event

    def _snapshot(self) -> dict[str, Any]:
        self.response["output"] = list(self.output)
        return dict(self.response)
