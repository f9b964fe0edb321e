"""The turns of a conversation as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from export.serve.content.references import Part
from export.serve.protocol.options import Template
from models.generation.prompts import ASSISTANT, USER

Role = Literal["system", "developer", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What one side said."""

    role: Role
    parts: list[Part]


def lay_out(turns: Sequence[Turn], template: Template) -> list[Part]:
    """The document that the model is to continue.

    "document" lays the turns end to end. "chat" has them as the trainer makes chats (`trainer/data/sources/tasks.py`):
    `USER: text image text ASSISTANT: text USER: ...`; an assistant's turn that comes last is continued.

    Args:
        turns: in order.
        template: which of the two.
    """
    if template == "document":
        return [part for turn in turns for part in turn.parts]
    parts: list[Part] = []
    for turn in _joined(turns):
        if turn.role == "user":
            parts += _user(turn.parts, is_first=not parts)
        elif turn.role == "assistant":
            parts += _assistant(turn.parts)
        else:
            parts += turn.parts
    return parts


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of the same side in a row as one: an answer may come back in several items."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Turn(turn.role, [*joined[-1].parts, *turn.parts])
        else:
            joined.append(turn)
    return joined


def _user(parts: Sequence[Part], *, is_first: bool) -> list[Part]:
    """A user's turn, and the word after which the answer begins. Spaces around texts are the template's."""
    marked: list[Part] = []
    text = f"{'' if is_first else ' '}{USER}"
    for part in parts:
        if not isinstance(part, str):
            marked += [text, part] if text else [part]
            text = ""
        elif words := part.strip():
            text += f" {words}"
    return [*marked, text + ASSISTANT]


def _assistant(parts: Sequence[Part]) -> list[Part]:
    """An assistant's turn as the model wrote it: a text behind ASSISTANT: begins with a space."""
    first = parts[0] if parts else None
    if isinstance(first, str) and not first[:1].isspace():
        return [f" {first}", *parts[1:]]
    return list(parts)
