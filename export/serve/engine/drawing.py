"""Images that are drawn together: a denoising step of each in one call of the U-Net."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from export.serve.engine.interface import GenerationRequest
from export.serve.engine.job import DocumentJob
from models.drawings import Drawings
from models.generation.generated import Preview, Progress
from models.generation.recorded_queries import RecordedQueries
from models.processor import MMInterleavedProcessor


@dataclass(eq=False)
class Painters:
    """Documents whose images are drawn together; their states are theirs.

    Args:
        drawings: their images.
        jobs: of each image.
    """

    drawings: Drawings
    jobs: list[DocumentJob]

    @classmethod
    def of(cls, job: DocumentJob) -> Painters:
        """The next image of one document, before its first step."""
        assert job.state is not None, "it is in no batch"
        job.recorded = {}
        return cls(job.state.begin_drawing([0], [job.continuation.image_seed], job.options.denoising), [job])

    def join(self, other: Painters) -> None:
        """Append the images of others, which are used up."""
        self.drawings.join(other.drawings)
        self.jobs += other.jobs

    def leave(self, jobs: Collection[DocumentJob]) -> None:
        """Draw these images no further."""
        places = [place for place, job in enumerate(self.jobs) if job in jobs]
        if places:
            self.drawings.leave(places)
            self.jobs = [job for job in self.jobs if job not in jobs]

    @torch.no_grad()
    def step(
        self, processor: MMInterleavedProcessor
    ) -> tuple[list[DocumentJob], list[tuple[DocumentJob, Exception]], list[Painters]]:
        """Take a step of each image.

        Returns:
            The jobs whose image is complete, which have left, with what they read next in `pending`; those that failed,
            with their errors; and the groups that go on apart, if drawing together failed.
        """
        done = self.drawings.done
        try:
            self.drawings.step()
        except Exception as together:
            jobs, self.jobs = self.jobs, []
            if len(jobs) == 1:
                return [], [(jobs[0], together)], []
            apart, failed = [], []
            for job, before in zip(jobs, done, strict=True):
                try:
                    apart.append(_restarted(job, before))
                except Exception as error:
                    failed.append((job, error))
            return [], failed, apart
        complete, failed = self._tell(processor)
        return complete, failed, []

    def _tell(self, processor: MMInterleavedProcessor) -> tuple[list[DocumentJob], list[tuple[DocumentJob, Exception]]]:
        """Hand on what the step has made: the jobs whose image is complete, and those that failed."""
        complete: list[DocumentJob] = []
        failed: list[tuple[DocumentJob, Exception]] = []
        for place, (job, done, most) in enumerate(
            zip(self.jobs, self.drawings.done, self.drawings.num_steps, strict=True)
        ):
            try:
                if self._tell_one(place, job, done, most, processor):
                    complete.append(job)
            except Exception as error:  # of this image alone
                failed.append((job, error))
        self.leave([*complete, *(job for job, _ in failed)])
        return complete, failed

    def _tell_one(self, place: int, job: DocumentJob, done: int, most: int, processor: MMInterleavedProcessor) -> bool:
        """Hand on what the step has made of one image; returns whether it is complete."""
        request = job.request
        assert isinstance(request, GenerationRequest), "others draw nothing"
        if done in job.options.recorded_steps and self.drawings.sampled is not None:
            job.recorded[done] = RecordedQueries(self.drawings.sampled, place).alone()
        job.handle.put(Progress(job.continuation.num_images, done, most))
        if done == most:
            image = processor.decode_image(self._decoded(self.drawings.latents, place))
            job.pending = job.continuation.add_image(image, job.recorded)
            job.handle.put(image)
        elif request.preview_every and done % request.preview_every == 0:
            image = processor.decode_image(self._decoded(self.drawings.estimate, place))
            job.handle.put(Preview(image, done, most))
        return done == most

    def _decoded(self, latents: torch.Tensor, place: int) -> torch.Tensor:
        """Pixels [3, h, w] of one image."""
        state = self.jobs[place].state
        assert state is not None, "it is in no batch"
        return state.decode(latents[place : place + 1])[0]


def _restarted(job: DocumentJob, done: int) -> Painters:
    """The image of a job drawn alone, from the beginning to where it was: the same, for its seed is."""
    alone = Painters.of(job)
    for _ in range(done):
        alone.drawings.step()
    return alone


def hang(groups: list[Painters], job: DocumentJob) -> None:
    """Let a document's image be drawn with the first of the groups that it can join, or alone."""
    own = Painters.of(job)
    for group in groups:
        if group.drawings.can_join(own.drawings):
            group.join(own)
            return
    groups.append(own)
