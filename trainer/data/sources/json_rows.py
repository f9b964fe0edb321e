"""JSON as data sets have it, where one name must not stand for two values."""

from __future__ import annotations

import json
from typing import Any

from trainer.data.sources.sample import BrokenSampleError

COLUMNS = frozenset(
    {
        *("texts", "images", "text_list", "image_info", "segments", "image", "caption", "text"),
        *("question", "answer", "expression", "box", "bbox", "width", "height", "label_map", "story", "conversations"),
        "as_stored",
    }
)
"""What `rows.read_row` looks at; other columns are not read."""

NAMES = COLUMNS | {
    *("image_name", "matched_text_index", "matched_sim"),
    *("loss", "ends_turn", "draw", "strip", "size", "from", "value"),
}
"""The same, and the names in the objects below."""


def read_json_row(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is no JSON, or one of `NAMES` stands twice in an object (BrokenSampleError): JSON leaves open
            which of the two counts.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = [name for name in fields if name in NAMES and names.count(name) > 1]
        if twice:
            raise BrokenSampleError(f"The name '{twice[0]}' stands more than once in an object")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
