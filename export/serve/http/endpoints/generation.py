"""What the three ways to ask for a document have in common."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from export.serve.content.references import Part
from export.serve.engine.interface import GenerationRequest
from export.serve.errors import RequestError, invalid
from export.serve.http.event_stream import unless_gone
from export.serve.http.guard import log_fault
from export.serve.http.run import Run
from export.serve.http.service import Service
from export.serve.protocol.answer import milliseconds
from export.serve.protocol.options import ImageFormat, Options
from models.generation.documents import PlainText, PromptSegment
from models.generation.prompts import prompt_for

MARKDOWN = ":markdown"
"""Behind a model's name: answers hold images as links, for clients that cannot set options."""


def model_of(body: Mapping[str, Any], service: Service) -> tuple[str, ImageFormat]:
    """The model that a request names, and how it wants images.

    Raises:
        RequestError: 404 for another one.
    """
    name = body.get("model", service.settings.name)
    if name == service.settings.name:
        return name, "images"
    if name == service.settings.name + MARKDOWN:
        return name, "markdown"
    raise unknown_model(name, service)


def unknown_model(name: object, service: Service) -> RequestError:
    """That the server has another one."""
    message = f"There is no model {str(name)[:100]!a}. Expected {service.settings.name!r}."
    return RequestError(404, message, param="model", code="model_not_found")


async def begin(
    id: str, parts: Sequence[Part], options: Options, request: Request, service: Service
) -> tuple[Run, list[int]]:
    """Load the images of a document and hand it to the engine.

    Returns:
        The run, and the seed of each continuation.

    Raises:
        RequestError: an image cannot be read, or there is no room.
    """
    document = await document_of(parts, options.task, request, service)
    seeds = options.generation.seeds(1)
    asker = service.asker(request.state.client)
    run = await service.begin(
        id,
        [
            GenerationRequest(
                document=document,
                options=replace(options.generation, seed=seed, num_return_sequences=1),
                preview_every=options.preview_every,
                asker=asker,
                id=id if len(seeds) == 1 else f"{id}-{number}",
            )
            for number, seed in enumerate(seeds)
        ],
    )
    return run, seeds


async def document_of(
    parts: Sequence[Part], task: str | None, request: Request, service: Service
) -> list[PromptSegment]:
    """The document with its images, in the words of a task if there is one; logged with `--log-prompts`.

    Raises:
        RequestError: an image cannot be read, or the document is not what the task takes.
    """
    document = _filled(await run_in_threadpool(service.served.loader.load, parts), task)
    if service.settings.log_prompts:
        words = [one if isinstance(one, str) else "<image>" for one in document]
        request.state.facts["prompt"] = "".join(words)
    return document


def _filled(document: list[PromptSegment], task: str | None) -> list[PromptSegment]:
    if task is None:
        return document
    try:
        return [PlainText(one) if isinstance(one, str) else one for one in prompt_for(task).fill(document)]
    except ValueError as error:
        raise invalid(str(error), "mmfs.task") from error


def public_url(request: Request, service: Service) -> str:
    """Under which the client reaches this server."""
    return service.settings.public_url or str(request.base_url).rstrip("/")


def note(request: Request, run: Run) -> None:
    """Put an answer's figures into the line that is logged of the request."""
    facts = request.state.facts
    facts["id"] = run.id
    if run.completed:
        finished = [one.finished for one in run.completed]
        facts |= {
            "prompt_tokens": finished[0].num_prompt_tokens,
            "cached_tokens": finished[0].num_cached_tokens,
            "new_tokens": sum(one.num_new_tokens for one in finished),
            "images_read": run.completed[0].num_prompt_images,
            "images_drawn": sum(one.num_new_images for one in run.completed),
            **milliseconds(run.completed[0].timings),
            "finish": finished[0].finish_reason,
        }
    if run.error is not None:
        facts["error"] = type(run.error).__name__


async def read_whole(events: AsyncIterator[object], run: Run, request: Request) -> None:
    """Let an answer that is sent whole be computed to its end.

    Args:
        events: of the answer, which collects them.
        run: what they tell of.
        request: that asked.

    Raises:
        ClientGone: nobody waits for it any more.
    """
    await unless_gone(run, request.receive, _exhausted(events))
    note(request, run)


async def _exhausted(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


async def data_lines(
    events: AsyncIterator[dict[str, Any]],
    run: Run,
    request: Request,
    on_error: Callable[[RequestError], Iterable[dict[str, Any]]] = lambda error: [error.body],
) -> AsyncIterator[bytes]:
    """Events as a stream sends them: those that have a type begin with a line that names it.

    Args:
        events: as JSON.
        run: what they tell of.
        request: that asked.
        on_error: what is said of an error after the first byte. It is the last that is sent.
    """
    try:
        async for event in events:
            yield line_of(event)
    except RequestError as error:
        log_fault(error, request.state.request_id)
        for event in on_error(error):
            yield line_of(event)
    finally:
        note(request, run)


def line_of(event: Mapping[str, Any]) -> bytes:
    """An event as it is sent."""
    head = f"event: {event['type']}\n" if "type" in event else ""
    return f"{head}data: {json.dumps(event)}\n\n".encode()
