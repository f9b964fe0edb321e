"""`POST /v1/mmfs/score`: how likely each of some texts is after a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from export.serve.content.references import Part
from export.serve.errors import invalid
from export.serve.protocol.answer import milliseconds
from export.serve.protocol.content import Message, Wire
from export.serve.protocol.options import OptionLimits, Options, Template, parse_options
from export.serve.protocol.templates import Turn, lay_out
from export.serve.protocol.validation import validated
from models.generation.scoring import Score

FIELDS = frozenset({"model", "messages", "candidates", "rank_by", "mmfs"})
OWN_FIELDS = frozenset({"task", "template"})
MOST_CANDIDATES = 1000


class ScoreBody(Wire):
    """A request."""

    messages: list[Message]
    candidates: list[str]
    rank_by: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class ScoreQuestion:
    """A request that has been understood."""

    parts: list[Part]
    candidates: list[str]
    rank_by: Literal["sum", "mean"]
    options: Options


def parse_score(body: Mapping[str, Any], limits: OptionLimits, template: Template) -> ScoreQuestion:
    """Understand a request.

    Args:
        body: the JSON object.
        limits: of its options.
        template: of the model.

    Raises:
        RequestError: it is none; the message says where.
    """
    asked = validated(ScoreBody, body)
    own = body.get("mmfs") or {}
    for name in (*(body.keys() - FIELDS), *(f"mmfs.{name}" for name in own if name not in OWN_FIELDS)):
        raise invalid(f"Scores have no option {name!a}. Expected some of {', '.join(sorted(FIELDS))}.", name)
    if not 0 < len(asked.candidates) <= MOST_CANDIDATES:
        raise invalid(f"candidates holds {len(asked.candidates)} texts; expected 1 to {MOST_CANDIDATES}.", "candidates")
    options = parse_options(body, limits, template=template, names={})
    turns = [Turn(one.role, list(one.parts(f"messages[{i}]"))) for i, one in enumerate(asked.messages)]
    return ScoreQuestion(lay_out(turns, options.template), asked.candidates, asked.rank_by, options)


def score_answer(id: str, model: str, scores: Sequence[Score], timings: Any) -> dict[str, Any]:
    """The scores, in the order of the candidates."""
    return {
        "id": id,
        "object": "mmfs.score",
        "model": model,
        "data": [
            {
                "index": index,
                "candidate": one.candidate,
                "log_probability": one.log_probability,
                "num_tokens": one.num_tokens,
                "rank": one.rank,
            }
            for index, one in enumerate(scores)
        ],
        "mmfs": {"timings": milliseconds(timings)},
    }
