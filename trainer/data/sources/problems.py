"""What of a shard cannot be used: counted, and named with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_NAMED = 10_000
"""So many of a shard are named; a file of nothing but broken lines shall not fill the memory."""

MAX_SENTENCE = 500
"""Characters of a sentence that are kept: names and errors quote what may be of any length."""


@dataclass
class Problems:
    """Of one shard."""

    count: int = 0
    """Samples, or rows, that cannot be used; where the shard could not be read on, one more."""

    sentences: list[str] = field(default_factory=list)
    """The first `MAX_NAMED`, and how many more there are."""

    cut_off: list[str] = field(default_factory=list)
    """Why the shard, or a file in it, was not read to its end."""

    def add(self, sentence: str) -> None:
        """Another sample cannot be used."""
        self.count += 1
        if len(self.sentences) < MAX_NAMED:
            self.sentences.append(sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:MAX_SENTENCE]}...")

    def end(self, sentence: str) -> None:
        """What follows in the file cannot be read, however much it is."""
        self.add(sentence)
        if len(self.cut_off) < MAX_NAMED:
            self.cut_off.append(sentence[:MAX_SENTENCE])

    def named(self) -> list[str]:
        """All sentences, with the number of those that were not kept."""
        more = self.count - len(self.sentences)
        return [*self.sentences, *([f"and {more:,} more"] if more else [])]
