"""Documents that write together: a token for each of them in one call of the language model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from export.serve.engine.content import items_of
from export.serve.engine.job import DocumentJob
from models.generation.state import GenerationState, Piece


@dataclass(eq=False)
class Writers:
    """Documents whose rows are one state; every row reads exactly one token in a step, so none is padded.

    Args:
        state: their rows.
        jobs: of each row.
    """

    state: GenerationState
    jobs: list[DocumentJob]

    @classmethod
    def of(cls, job: DocumentJob) -> Writers:
        """Of one document."""
        assert job.state is not None, "it is in no batch"
        writers, job.state = cls(job.state, [job]), None
        return writers

    def can_join(self, other: Writers) -> bool:
        """Whether there is room; documents that record are apart from those that do not."""
        return self.state.records_sampling == other.state.records_sampling and self.state.can_join(other.state)

    def join(self, other: Writers) -> None:
        """Append the documents of others, which are used up."""
        self.state.join(other.state)
        self.jobs += other.jobs

    def leave(self, jobs: Collection[DocumentJob]) -> None:
        """Give these jobs states of their own again."""
        if len(self.jobs) == 1 and self.jobs[0] in jobs:
            self.jobs[0].state, self.jobs = self.state, []
            return
        rows = [row for row, job in enumerate(self.jobs) if job in jobs]
        for row in rows:
            self.jobs[row].state = self.state.copied([row])
        stay = [row for row in range(len(self.jobs)) if row not in rows]
        if rows:
            self.state.select(stay)
            self.jobs = [self.jobs[row] for row in stay]

    @torch.no_grad()
    def step(self) -> tuple[list[DocumentJob], list[tuple[DocumentJob, Exception]]]:
        """Write a token of each document, and read it.

        Returns:
            The jobs that have left: because they ended, or because they want an image; and those that failed, with
            their errors. All of them have states of their own again.
        """
        assert self.state.logits is not None, "all have read something"
        logits = self.state.logits.cpu()
        turns: dict[DocumentJob, list[Piece]] = {}
        failed: list[tuple[DocumentJob, Exception]] = []
        for row, job in enumerate(self.jobs):
            try:
                text, turns[job] = job.continuation.write(logits[row], self.state.queries[row])
                if turns[job] and self.state.excess(row, 1) > 0:
                    if job.options.overflow == "cut":
                        text, turns[job] = text + job.continuation.end_for_length(), []
                    else:
                        self.state.check_room([turns[job] if one is job else [] for one in self.jobs])
                if text:
                    job.handle.put(text)
            except Exception as error:  # of this document alone
                failed.append((job, error))
        bad = [job for job, _ in failed]
        ended = [job for job in self.jobs if job not in bad and not turns[job]]
        self.leave([*bad, *ended])
        failed += self._read(turns)
        drawing = [job for job in self.jobs if job.continuation.wants_image]
        self.leave(drawing)
        return ended + drawing, failed

    def _read(self, turns: dict[DocumentJob, list[Piece]]) -> list[tuple[DocumentJob, Exception]]:
        """Let each document read its turn: together, and where that fails, one by one, so that only those fail that
        cannot be read."""
        if not self.jobs:
            return []
        failed: list[tuple[DocumentJob, Exception]] = []
        try:
            self.state.read([turns[job] for job in self.jobs])
        except Exception as together:
            jobs: Sequence[DocumentJob] = list(self.jobs)
            if len(jobs) == 1:
                self.leave(jobs)
                return [(jobs[0], together)]
            apart = []
            for row, job in enumerate(jobs):
                alone = Writers(self.state.copied([row]), [job])
                failed += alone._read(turns)
                apart += [alone] if alone.jobs else []
            self.jobs = []
            for alone in apart:
                if self.jobs:
                    self.join(alone)
                else:
                    self.state, self.jobs = alone.state, alone.jobs
            return failed
        for job in self.jobs:
            job.items += items_of(turns[job], 0)
        return []


def seat(groups: list[Writers], job: DocumentJob) -> None:
    """Let a document write with the first of the groups that it can join, or alone."""
    own = Writers.of(job)
    for group in groups:
        if group.can_join(own):
            group.join(own)
            return
    groups.append(own)
