"""From token ids to text while it is generated: the part that is certain already."""

from __future__ import annotations

from models.processor import MMInterleavedProcessor

UNFINISHED = "\ufffd"
"""What a character is decoded to whose bytes are not all there yet."""


class IncrementalDetokenizer:
    """Token ids to text pieces. A character whose bytes are spread over tokens is held back until it is complete, and
    the possible beginning of a stop text until it is certain to be none.

    Args:
        processor: with the tokenizer.
        stops: texts that end the generation; not returned.
    """

    def __init__(self, processor: MMInterleavedProcessor, stops: tuple[str, ...] = ()) -> None:
        self.processor = processor
        self.stops = stops
        self.ids: list[int] = []
        self.shown = 0
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that has become certain with this token; `is_stopped` says whether it completed a stop text."""
        self.ids.append(token)
        text = self.processor.decode_text(self.ids)
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            return self._show(text[: min(ends)])
        if text.endswith(UNFINISHED):
            return ""
        return self._show(text[: len(text) - self._num_held_back(text)])

    def flush(self) -> str:
        """The rest; what comes next begins a new text."""
        piece = "" if self.is_stopped else self._show(self.processor.decode_text(self.ids))
        self.ids, self.shown = [], 0
        return piece

    def _show(self, text: str) -> str:
        piece, self.shown = text[self.shown :], max(len(text), self.shown)
        return piece

    def _num_held_back(self, text: str) -> int:
        """Characters at the end that a stop text may begin with."""
        beginnings = [stop[:length] for stop in self.stops for length in range(1, len(stop))]
        return max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
