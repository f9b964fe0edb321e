"""The engine: one thread that owns the model and computes all requests together, step by step.

A round of its loop (`_tick`): cancelled requests leave, waiting ones are admitted, prompts are read up to a budget, all
documents that write get a token each in one call, and all images that are drawn get a denoising step in another. What a
document has read is kept for the next request that begins with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

import torch

from export.serve.engine.admission import AdmissionQueue
from export.serve.engine.content_cache import ContentCache
from export.serve.engine.drawing import Painters, hang
from export.serve.engine.events import Cancelled, Failed, LastEvent
from export.serve.engine.forecast import Forecast
from export.serve.engine.handle import Handle
from export.serve.engine.interface import STOPPING, Engine, EngineStats, EngineStopped, NeverFits, Request
from export.serve.engine.job import AloneJob, DocumentJob, Job, clients, job_of
from export.serve.engine.limits import MIB, EngineLimits
from export.serve.engine.writing import Writers, seat
from models.generation.state import GenerativeModel, processor_of
from models.torch_defaults import usual_torch_defaults

LOG = logging.getLogger(__name__)


class BatchingEngine(Engine):
    """As `Engine`.

    Args:
        model: used by this engine's thread alone.
        limits: how much is done at once, and kept.
    """

    def __init__(self, model: GenerativeModel, limits: EngineLimits) -> None:
        self.model = model
        self.limits = limits
        self._num_visual = model.config.visual_tokenizer.num_visual_tokens
        self._processor = processor_of(model)
        self._cache = ContentCache(limits.cache_bytes)
        self._queue: AdmissionQueue[Job] = AdmissionQueue(limits)
        self._running: list[Job] = []
        self._alone: list[AloneJob] = []
        self._reading: list[DocumentJob] = []
        self._writers: list[Writers] = []
        self._painters: list[Painters] = []
        self._changed = threading.Condition()
        self._stopped = False
        with usual_torch_defaults():
            self._empty = model.begin_generation(1)
            self._forecast = None if limits.memory_bytes is None else Forecast.measured(model)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Handle:
        job = job_of(request, Handle(request.id, self._wake))
        with self._changed:
            self._check_open()
            self._queue.check_place()
        if isinstance(job, DocumentJob):  # in the caller's thread, and nobody waits for it
            with usual_torch_defaults():
                job.prepare(self._processor, self._empty)
            job.num_bytes = self._forecast_of(job)
        with self._changed:
            self._check_open()
            self._queue.add(job, self._num_missing(job))
            self._changed.notify()
        return job.handle

    def _check_open(self) -> None:
        if self._stopped:
            raise EngineStopped(STOPPING)

    def _num_missing(self, job: Job) -> int:
        """Bytes by which the documents that run and wait, and this one, are more than there is memory for."""
        if self.limits.memory_bytes is None or not job.num_bytes:
            return 0
        return sum(one.num_bytes for one in (*self._running, *self._queue, job)) - self.limits.memory_bytes

    def _forecast_of(self, job: DocumentJob) -> int:
        """Bytes that a document will take; 0 if that does not matter.

        Raises:
            NeverFits: more than there is memory.
        """
        limit = self.limits.memory_bytes
        if self._forecast is None or limit is None or job.refusal is not None:
            return 0
        num_images = job.num_prompt_images + (0 if job.options.mode == "text" else job.options.max_new_images)
        num_tokens = len(job.prompt) + job.options.most_new_places(self._num_visual)
        num_tokens -= max(
            0, self._empty.excess(0, num_tokens)
        )  # a document ends where the language model's length does
        num_bytes = self._forecast.of(num_tokens, num_images)
        if num_bytes > limit:
            raise NeverFits(
                f"The request needs about {num_bytes / MIB:.4g} MiB for {num_tokens} tokens and {num_images} images, "
                f"those that it may write among them; all requests together have {limit / MIB:.4g} MiB. Send less text "
                "or fewer images, or lower max_tokens or mmfs.max_new_images; or start the server with a larger "
                "--memory."
            )
        return num_bytes

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                num_running=len(self._running),
                num_waiting=len(self._queue),
                num_writing=sum(len(group.jobs) for group in self._writers),
                num_drawing=sum(len(group.jobs) for group in self._painters),
                num_conversations=len(self._cache),
                conversation_bytes=self._cache.num_bytes,
            )

    def close(self) -> None:
        with self._changed:
            self._stopped = True
            jobs = [*self._running, *self._queue]
        for job in jobs:
            job.handle.cancel("stopping")
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        """A client has read something, or a request is cancelled."""
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        try:
            with torch.no_grad():
                while self._round():
                    pass
        finally:  # also if the thread is lost, nobody waits for ever
            with self._changed:
                self._stopped = True
            self._fail([*self._running, *self._queue], RuntimeError("The engine's thread has ended."))

    def _round(self) -> bool:
        """Wait for work, and do a part of it; whether the engine goes on."""
        try:
            with self._changed:
                while not ((admitted := self._admit()) or self._has_work()):
                    if self._stopped and not self._running and not len(self._queue):
                        self._cache.clear()
                        return False
                    self._changed.wait(self._queue.seconds_until_expiry(time.monotonic()))
        except Exception as error:  # nobody can be admitted
            self._fail([*self._running, *self._queue], error)
            return True
        try:
            with usual_torch_defaults():  # not while it waits: the default dtype is the whole program's
                self._drop_cancelled()
                for job in admitted:
                    self._start(job)
                self._tick()
        except Exception as error:  # of the engine itself: whoever was in it cannot go on, but others can
            self._fail(self._running, error)
        return True

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """End all that run, and perhaps those that wait, whatever state their batches are in."""
        with self._changed:
            jobs = list(jobs)
            self._running, self._alone, self._reading, self._writers, self._painters = [], [], [], [], []
            for waiting in set(jobs).intersection(self._queue):
                self._queue.remove(waiting)
        for job in jobs:
            if isinstance(job, DocumentJob):
                job.state = None
            try:
                job.end(Failed(error))
            except Exception:  # a stream that does not close; its client has been told
                LOG.exception("A request could not be ended in order.")

    def _admit(self) -> list[Job]:
        """Let those that wait go if they are cancelled or late; those that begin now."""
        for waiting in self._queue:
            if (reason := waiting.handle.cancel_reason) is not None:
                self._queue.remove(waiting)
                waiting.end(Cancelled(reason))
        for late, error in self._queue.expired(time.monotonic()):
            late.end(Failed(error))
        new: list[Job] = []
        while (job := self._queue.next(clients(self._running), self._fits)) is not None:
            self._running.append(job)
            job.started = time.monotonic()
            new.append(job)
        return new

    def _has_work(self) -> bool:
        """Whether there is something to compute."""
        waiting = (*self._alone, *self._reading)
        can_go_on = any(not job.handle.is_full or job.handle.cancel_reason is not None for job in waiting)
        return can_go_on or bool(self._writers) or bool(self._painters)

    def _drop_cancelled(self) -> None:
        for job in list(self._running):
            if (reason := job.handle.cancel_reason) is not None:
                self._end(job, Cancelled(reason))

    def _fits(self, job: Job) -> bool:
        """Whether there is memory for a request beside those that run."""
        if self.limits.memory_bytes is None or not job.num_bytes:
            return True
        return sum(one.num_bytes for one in self._running) + job.num_bytes <= self.limits.memory_bytes

    def _start(self, job: Job) -> None:
        """Begin a request: with what has been read of its document before."""
        if job not in self._running:  # it was cancelled meanwhile
            return
        job.enter("reading")
        if isinstance(job, AloneJob):
            self._alone.append(job)
            return
        assert isinstance(job, DocumentJob), "there is no other kind"
        if job.refusal is not None:
            self._end(job, Failed(job.refusal))
            return
        try:
            job.begin(self.model, self._cache.take(job.request.asker.cache_scope, job.prompt))
        except Exception as error:  # of this request alone
            self._end(job, Failed(error))
            return
        self._reading.append(job)

    def _tick(self) -> None:
        """A round's computing."""
        for alone in list(self._alone):
            if not alone.handle.is_full:
                self._step_alone(alone)
        self._read()
        if self._writers:
            for _ in range(self.limits.tokens_per_step if self._painters else 1):
                self._write()
        for painters in list(self._painters):
            self._draw(painters)

    def _step_alone(self, job: AloneJob) -> None:
        try:
            event = job.step(self.model)
        except StopIteration:  # it was cancelled meanwhile
            return
        except Exception as error:  # of this request alone
            event = Failed(error)
        if event is not None:
            self._end(job, event)

    def _read(self) -> None:
        """Read what documents have to read, up to the budget; those that are through go on to write."""
        budget = self.limits.read_budget
        for job in list(self._reading):
            if budget <= 0:
                return
            if job.handle.is_full:
                continue
            try:
                if self._is_too_long(job):
                    if text := job.continuation.end_for_length():
                        job.handle.put(text)
                elif job.pending:
                    budget -= job.read(budget, self._num_visual)
            except Exception as error:  # of this document alone
                self._end(job, Failed(error))
                continue
            if job.continuation.finish_reason == "length" or (job.continuation.finish_reason and not job.pending):
                self._end(job, job.completed())
            elif not job.pending:
                self._reading.remove(job)
                job.enter("writing")
                seat(self._writers, job)

    def _is_too_long(self, job: DocumentJob) -> bool:
        """Whether a document ends here, because what it would read next does not fit."""
        assert job.state is not None, "it is in no batch"
        is_cut = job.options.overflow == "cut" and len(job.items) >= len(job.prompt)
        return is_cut and job.state.excess(0, job.state.num_tokens(job.pending)) > 0

    def _write(self) -> None:
        """A token for every document that writes."""
        for writers in list(self._writers):
            full = [job for job in writers.jobs if job.handle.is_full or job.handle.cancel_reason is not None]
            writers.leave(full)
            self._reading += full  # until there is room
            if writers.jobs:
                left, failed = writers.step()
                self._settle(left, failed)
        self._writers = [one for one in self._writers if one.jobs]

    def _draw(self, painters: Painters) -> None:
        """A step for every image of a group."""
        complete, failed, apart = painters.step(self._processor)
        self._painters += apart
        for job in complete:
            job.enter("reading")
        self._settle([job for job in complete if job.continuation.finish_reason is not None], failed)
        self._reading += [job for job in complete if job.continuation.finish_reason is None]
        self._painters = [one for one in self._painters if one.jobs]

    def _settle(self, left: Sequence[DocumentJob], failed: Iterable[tuple[DocumentJob, Exception]]) -> None:
        """What becomes of documents that have left a batch."""
        for job, error in failed:
            self._end(job, Failed(error))
        for job in left:
            if job.continuation.finish_reason is not None:
                self._end(job, job.completed())
                continue
            job.enter("drawing")
            try:
                hang(self._painters, job)
            except Exception as error:  # of this document alone
                self._end(job, Failed(error))

    def _end(self, job: Job, event: LastEvent) -> None:
        """Let go of a request, keep what its document has read, and tell the last event."""
        if isinstance(job, AloneJob):
            self._alone = [one for one in self._alone if one is not job]
        elif isinstance(job, DocumentJob):
            for writers in self._writers:
                writers.leave([job])
            for painters in self._painters:
                painters.leave([job])
            self._writers = [one for one in self._writers if one.jobs]
            self._painters = [one for one in self._painters if one.jobs]
            self._reading = [one for one in self._reading if one is not job]
            if not isinstance(event, Failed):
                self._keep(job)
            job.state = None
        with self._changed:
            self._running.remove(job)
            self._queue.finished(time.monotonic() - job.started)
        job.end(event)

    def _keep(self, job: DocumentJob) -> None:
        """Let the next request that begins as this document does find what it has read."""
        state = job.state
        if (
            state is None
            or state.logits is None
            or not self.limits.cache_bytes
            or state.records_sampling
            or bool(state.logits.isnan().any())
        ):
            return
        self._cache.put(job.request.asker.cache_scope, job.items, state.copied([0]))
