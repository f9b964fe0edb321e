"""What each protocol writes is what openai-python's own types say, for text, images and both, streamed and not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImagesResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from export.serve.content.encoded import EncodedImage, EncodedPreview
from export.serve.engine.events import Completed, Timings
from export.serve.errors import RequestError
from export.serve.protocol.answer import AnswerEvent
from export.serve.protocol.chat import ChatAnswer, parse_chat
from export.serve.protocol.images import ImagesAnswer, parse_images
from export.serve.protocol.options import OptionLimits
from export.serve.protocol.partial_images import preview_steps
from export.serve.protocol.responses import ResponsesAnswer, parse_responses
from models.generation.generated import Finished, FinishReason, Progress

LIMITS = OptionLimits()
IMAGE = EncodedImage(b"\x89PNG not really", 32, 24)
PREVIEW = EncodedPreview(b"jpeg", "image/jpeg", 2, 4)


def completed(finish: FinishReason = "end", num_images: int = 0) -> Completed:
    return Completed(Finished(finish, 1, 20, 7, 16), 2, num_images, Timings(0.001, 0.02, 0.3, 4.0))


INTERLEAVED: list[AnswerEvent] = [
    " a snail",
    Progress(0, 1, 4),
    PREVIEW,
    Progress(0, 2, 4),
    IMAGE,
    " and",
    " a rocket",
    IMAGE,
    completed(num_images=2),
]


def chat_answer(image_format: str = "images", **body: Any) -> ChatAnswer:
    body = {"messages": [{"role": "user", "content": "x"}], "mmfs": {"image_format": image_format}, **body}
    asked = parse_chat(body, LIMITS, template="document")
    return ChatAnswer(
        id="chatcmpl-1",
        model="toy",
        created=1,
        request=asked,
        seeds=[7] * asked.options.generation.num_return_sequences,
        public_url="https://here",
        num_visual_tokens=4,
    )


def all_of(answer: Any, events: Iterable[AnswerEvent]) -> Iterator[dict[str, Any]]:
    yield from answer.opening()
    for event in events:
        yield from answer.add(0, event) if isinstance(answer, ChatAnswer) else answer.add(event)
    if isinstance(answer, ChatAnswer):
        yield from answer.closing()


def test_a_whole_chat_completion_is_openai_s():
    answer = chat_answer()
    list(all_of(answer, INTERLEAVED))
    whole = answer.whole()
    parsed = ChatCompletion.model_validate(whole)
    assert parsed.choices[0].message.content == " a snail and a rocket"
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 16, "image_tokens": 8},
        "completion_tokens_details": {"image_tokens": 2},
    }
    message = whole["choices"][0]["message"]
    assert message["mmfs"]["content"] == [
        {"type": "text", "text": " a snail"},
        {"type": "image", "index": 0},
        {"type": "text", "text": " and a rocket"},
        {"type": "image", "index": 1},
    ]
    assert [image["index"] for image in message["images"]] == [0, 1]
    timings = {"queued_ms": 1.0, "read_ms": 20.0, "write_ms": 300.0, "draw_ms": 4000.0}
    assert whole["mmfs"] == {"finish": "end", "num_cut": 1, "seed": 7, "timings": timings}


def test_chunks_are_openai_s_and_hold_the_same():
    answer = chat_answer(stream_options={"include_usage": True})
    chunks = list(all_of(answer, INTERLEAVED))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == " a snail and a rocket"
    assert [image["index"] for delta in deltas for image in delta.get("images", [])] == [0, 1]
    previews = [delta["mmfs"] for delta in deltas if "preview" in delta.get("mmfs", {})]
    assert previews[0]["progress"] == {"index": 0, "step": 2, "steps": 4}
    assert previews[0]["preview"]["url"].startswith("data:image/jpeg;base64,")
    assert chunks[-1]["usage"]["total_tokens"] == 27


def test_markdown_and_parts_keep_the_place_of_images():
    link = f"![image 1](https://here/v1/mmfs/images/{IMAGE.digest}.png)"
    answer = chat_answer("markdown")
    list(all_of(answer, INTERLEAVED))
    message = answer.whole()["choices"][0]["message"]
    assert message["content"] == f" a snail{link} and a rocket{link.replace('image 1', 'image 2')}"
    assert "images" not in message
    answer = chat_answer("parts")
    list(all_of(answer, INTERLEAVED))
    content = answer.whole()["choices"][0]["message"]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("end", "stop"),
        ("stop", "stop"),
        ("max_new_images", "stop"),
        ("max_new_tokens", "length"),
        ("length", "length"),
    ],
)
def test_reasons_are_openai_s(finish: FinishReason, reason: str):
    answer = chat_answer()
    list(all_of(answer, ["a", completed(finish)]))
    assert answer.whole()["choices"][0]["finish_reason"] == reason


def responses_answer(**body: Any) -> ResponsesAnswer:
    tools = [{"type": "image_generation", "partial_images": 1}]
    asked = parse_responses({"input": "x", "tools": tools, **body}, LIMITS, "document")
    return ResponsesAnswer(id="resp_1", model="toy", created=1, request=asked, seed=7, num_visual_tokens=4)


def test_events_of_responses_are_openai_s_and_alternate():
    answer = responses_answer()
    events = list(all_of(answer, INTERLEAVED))
    known = TypeAdapter(ResponseStreamEvent)
    for number, event in enumerate(events):
        assert known.validate_python(event).type == event["type"]
        assert event["sequence_number"] == number
    added = [event["item"]["type"] for event in events if event["type"] == "response.output_item.added"]
    assert added == ["message", "image_generation_call"] * 2
    done = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert done == [0, 1, 2, 3]
    assert sum(event["type"].endswith("partial_image") for event in events) == 1
    parsed = Response.model_validate(answer.response)
    assert [item.type for item in parsed.output] == added
    assert parsed.output_text == " a snail and a rocket"
    assert parsed.usage.input_tokens_details.cached_tokens == 16


@pytest.mark.parametrize("events", [[IMAGE, completed(num_images=1)], ["a", completed()], [completed()]])
def test_answers_of_one_kind_are_whole(events: list[AnswerEvent]):
    answer = responses_answer()
    told = list(all_of(answer, events))
    assert told[-1]["type"] == "response.completed"
    opened = [event["item"]["id"] for event in told if event["type"] == "response.output_item.added"]
    closed = [event["item"]["id"] for event in told if event["type"] == "response.output_item.done"]
    assert opened == closed == [item["id"] for item in answer.response["output"]]


def test_what_is_cut_off_is_incomplete_and_what_fails_failed():
    answer = responses_answer()
    (*_, last) = all_of(answer, ["a", completed("max_new_tokens")])
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    (failed,) = responses_answer().fail(RequestError(500, "The model failed."))
    assert Response.model_validate(failed["response"]).error.message == "The model failed."
    cancelled = responses_answer()
    told = [*all_of(cancelled, ["a", Progress(0, 1, 4)]), *cancelled.cancel()]
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message"]


@pytest.mark.parametrize(("steps", "partial_images"), [(30, 3), (30, 1), (4, 3), (2, 3), (1, 3), (7, 2)])
def test_partial_images_are_spread_over_the_steps(steps: int, partial_images: int):
    every = preview_steps(steps, partial_images)
    shown = [step for step in range(1, steps) if step % every == 0][:partial_images]
    assert len(shown) == min(partial_images, steps - 1)
    assert preview_steps(steps, 0) == 0


def test_images_are_openai_s():
    asked = parse_images({"prompt": "x", "n": 1, "partial_images": 1, "size": "32x24"}, LIMITS, (24, 32))
    answer = ImagesAnswer(created=1, request=asked, seeds=[7], public_url="https://here", num_visual_tokens=4)
    events = [told for event in (PREVIEW, PREVIEW, IMAGE, completed(num_images=1)) for told in answer.add(0, event)]
    ImageGenPartialImageEvent.model_validate(events[0])
    last = ImageGenCompletedEvent.model_validate(events[1])
    assert (len(events), last.size, last.usage.total_tokens) == (2, "32x24", 27)
    whole = ImagesResponse.model_validate(answer.whole())
    assert [image.b64_json for image in whole.data] == [IMAGE.base64]
