"""Checkpoints that are complete or not there: written by a thread, whole by a small file; only complete ones are found.

A checkpoint is a directory, or what stands below a name in object storage, `<phase>-<step>` with the training state of
all processes (torch.distributed.checkpoint, which any other number of processes can read) and checkpoint.json, which
says what it is, how large its files are, and the digest of each.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from models.digests import file_sha256
from models.object_path import Place, sizes_of
from models.object_storage import StorageError
from models.write_errors import writing
from trainer.errors import UsageError
from trainer.process.distributed import Processes
from trainer.run_files import CHECKPOINTS
from trainer.step.checkpoint_digests import take_digests
from trainer.step.checkpoint_files import DAMAGED, UNFINISHED, files_at
from trainer.step.checkpoint_manifest import MANIFEST, manifest_text, read_manifest
from trainer.step.checkpoint_reader import reader_of
from trainer.step.checkpoint_writer import writer_of
from trainer.step.training_state import TrainingState

STATE = "state"
LATEST = "LATEST"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Place
    phase: str
    step: int
    """Steps of the phase that are done; the data position, since step s trains on batch s."""

    phase_index: int
    config: dict[str, Any]
    base: dict[str, str]
    """Fingerprints of the parameters that do not learn and are not in it."""

    sha256: dict[str, str]
    """Of each file, by its place; empty in a checkpoint of an earlier version."""

    num_bytes: int
    """Of all its files."""

    def damaged_files(self, processes: Processes) -> list[str]:
        """Names of files that are not as they were written. Each process reads its share of them; all have to call it,
        and all get the same answer."""
        names = sorted(self.sha256)
        own = [0] * len(names)
        for i in range(processes.rank, len(names), processes.num):
            own[i] = int(self._differs(names[i]))
            processes.watchdog.heartbeat()
        differs = processes.all_reduce_sum(own) if names else []
        return [name for name, is_damaged in zip(names, differs, strict=True) if is_damaged]

    def _differs(self, name: str) -> bool:
        try:
            return file_sha256(self.path / name) != self.sha256[name]
        except StorageError:  # which may give it back later
            raise
        except OSError:  # a disk that does not give it back
            return True

    def load(self, state: TrainingState, base: Mapping[str, str], processes: Processes) -> None:
        """Put it into a module, its optimizer and its average; all processes together, however many saved it.

        Raises:
            UsageError: it is of another module, or was trained on top of other frozen parameters than `base`, or does
                not hold what its table of contents says.
        """
        different = sorted(part for part in self.base.keys() | base.keys() if self.base.get(part) != base.get(part))
        if different:
            raise UsageError(
                f"{self.path} was trained on top of other frozen weights than this run has in {', '.join(different)}. "
                "Give the run the very weights that it began with (the directory that init names may have changed)."
            )
        reader = reader_of(self.path / STATE)
        places = state.places(_shapes(reader))
        try:
            dcp.load(places, storage_reader=reader, process_group=processes.saving)
            state.put_back(places, self.step)
        except (CheckpointException, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{self.path} does not hold what a checkpoint does ({_reason(error)}). Continue from another "
                "checkpoint: --resume PATH."
            ) from error


def _reason(error: BaseException) -> str:
    """Of errors in several processes, what the first one says."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, pickle.UnpicklingError):  # whose words advise to run it
        return "a tensor is damaged"
    return str(error).partition("\n")[0]


def _shapes(reader: FileSystemReader) -> dict[str, Any]:
    stored = reader.read_metadata().state_dict_metadata
    return {name: about.size for name, about in stored.items() if isinstance(about, TensorStorageMetadata)}


class Saver:
    """Writes the checkpoints of a run while the training goes on, one at a time. All processes do everything together.

    The training waits as long as a copy of the state in memory takes, and for an earlier save that is not done.
    Leaving the context finishes the last one.

    Args:
        directory: of all checkpoints of a run; on several machines, one that all of them see.
        processes: who saves.
        keep_latest: how many of the newest checkpoints stay.
        before_complete: called in the first process, by the thread that writes, before a checkpoint becomes complete:
            what has to be there with it.
    """

    def __init__(
        self,
        directory: Place,
        processes: Processes,
        *,
        keep_latest: int,
        before_complete: Callable[[], None] = lambda: None,
    ) -> None:
        self.latest: Place | None = None
        """The newest one that this object has completed, or is writing."""

        self._directory = directory
        self._processes = processes
        self._files = files_at(directory)
        self._keep_latest = keep_latest
        self._before_complete = before_complete
        self._completer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._previous: Place | None = None
        """The one before `latest`."""

        self._pending: Future[Any] | None = None
        self._num_bytes = 0
        """Of the one before, or else of the tensors of the one that is being written: it needs no less."""

    def __enter__(self) -> Saver:
        if self._processes.is_first:
            remove_left_over(self._directory, self._keep_latest)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):  # a second Ctrl-C does not wait
            self.finish()
        self._completer.shutdown(wait=False)

    def save(
        self,
        state: TrainingState,
        *,
        phase: str,
        phase_index: int,
        step: int,
        config: Mapping[str, Any],
        base: Mapping[str, str],
    ) -> None:
        """Begin to write a checkpoint; once written, it becomes the latest, and old ones are removed.

        A kill at any moment leaves the previous latest one in place. A complete checkpoint of the same phase and step
        is left as it is, since the same run made it.

        Raises:
            WriteError: this one, or the one before, cannot be written, because the disk is full, say. Nothing of it is
                left.
        """
        self.finish()
        final = self._directory / f"{phase}-{step:07d}"
        self._previous, self.latest = self.latest, final
        if self._processes.all_reduce_max(int(self._processes.is_first and read(final) is not None)):
            if self._processes.is_first:
                self._make_latest(final)
            return
        if self._processes.is_first:
            self._files.make_room(final)
        self._processes.barrier()
        tensors = state.tensors()
        # On a disk alone is it told how much room a checkpoint needs; a storage would be asked for each file of it.
        before = read(self._previous) if isinstance(self._previous, Path) else None
        self._num_bytes = before.num_bytes if before is not None else sum(one.nbytes for one in tensors.values())
        written = dcp.async_save(
            tensors,
            storage_writer=writer_of(self._files.aside(final) / STATE),
            process_group=self._processes.saving,
        )
        assert isinstance(written, Future)  # the other kind comes with stagers of one's own
        facts = {"phase": phase, "phase_index": phase_index, "step": step, "base": dict(base), "config": dict(config)}
        first = self._processes.is_first
        self._pending = self._completer.submit(self._complete, final, facts, written) if first else written

    def finish_if_written(self) -> None:
        """Fail if the checkpoint that is being written has failed by now; never waits."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is complete.

        Raises:
            WriteError: it cannot be written, because the disk is full, say. Nothing of it is left.
            StorageError: object storage does not take it.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        assert self.latest is not None
        failed = self.latest
        try:
            with writing(failed, self._num_bytes) if isinstance(failed, Path) else nullcontext():
                try:
                    pending.result()
                except CheckpointException as error:  # which is no Exception, and has one of each process that failed
                    raise next(iter(error.failures.values()))[0] from error
        except Exception as error:
            if self._processes.is_first:
                with suppress(StorageError):  # which is what has failed; the next run removes it
                    self._files.abandon(failed)
            if not _is_complete(failed):  # else only what follows it has failed
                self.latest = self._previous
            if isinstance(error, StorageError):
                left = f"is {self.latest}" if self.latest is not None else "is none"
                raise StorageError(f"{error} The last complete checkpoint {left}; the same command goes on.") from error
            raise

    def _complete(self, final: Place, facts: Mapping[str, Any], written: Future[Any]) -> None:
        written.result()
        self._before_complete()
        complete(final, facts)
        self._make_latest(final)

    def _make_latest(self, final: Place) -> None:
        self._files.write(LATEST, final.name + "\n")
        _remove_old(self._directory, self._keep_latest)


def _is_complete(path: Place) -> bool:
    try:
        return read(path) is not None
    except StorageError:
        return False


def remove_left_over(directory: Place, keep_latest: int) -> None:
    """Remove what killed processes have left in a directory of checkpoints: unfinished ones, and complete ones beyond
    the `keep_latest` newest. Nobody else may write there meanwhile."""
    files_at(directory).remove_unfinished()
    _remove_old(directory, keep_latest)


def _remove_old(directory: Place, keep_latest: int) -> None:
    for old in find_all(directory)[:-keep_latest]:
        files_at(directory).remove(old.path)


def put_aside(checkpoint: Checkpoint) -> None:
    """See to it that a damaged checkpoint is found no more and another can have its place."""
    files_at(checkpoint.path.parent).put_aside(checkpoint.path)


def damaged_name(path: Place) -> str:
    """What a damaged checkpoint is called once it is put aside."""
    name: str = files_at(path.parent).damaged_name(path).name
    return name


def complete(final: Place, facts: Mapping[str, Any]) -> None:
    """Make a checkpoint of the files that all processes have written, with a manifest of `facts`.

    Raises:
        UsageError: a file is not there.
    """
    files = files_at(final.parent)
    state = files.aside(final) / STATE
    metadata = reader_of(state).read_metadata()
    parts = sorted({".metadata"} | {info.relative_path for info in metadata.storage_data.values()})
    found = sizes_of(state, parts)
    if missing := [name for name in parts if name not in found]:
        raise UsageError(
            f"{state.parent} lacks {', '.join(f'{STATE}/{name}' for name in missing[:3])}, which other processes "
            "wrote. Processes on several machines need an out directory that all of them share."
        )
    sizes = {f"{STATE}/{name}": size_bytes for name, size_bytes in found.items()}
    digests = {f"{STATE}/{name}": digest for name, digest in take_digests(state, parts).items()}
    files.complete(final, manifest_text({**facts, "file_sizes_bytes": sizes, "sha256": digests}))


def read(path: Place) -> Checkpoint | None:
    """The checkpoint in a directory; None if it is not there, or not complete. Looks at sizes and not at contents, for
    which there is `Checkpoint.damaged_files`."""
    if path.name.startswith((UNFINISHED, DAMAGED)):
        return None
    try:
        manifest = read_manifest(path)
        sizes = sizes_of(path, manifest.file_sizes_bytes)
    except StorageError:  # it may well be there
        raise
    except (OSError, ValueError):
        return None
    if sizes != manifest.file_sizes_bytes:
        return None
    return Checkpoint(
        path,
        manifest.phase,
        manifest.step,
        manifest.phase_index,
        manifest.config,
        manifest.base,
        manifest.sha256,
        sum(sizes.values()),
    )


def find_all(directory: Place) -> list[Checkpoint]:
    """The complete checkpoints in a directory, in the order in which the run passes them."""
    found = [checkpoint for path in directory.glob("*-*") if (checkpoint := read(path)) is not None]
    return sorted(found, key=lambda checkpoint: (checkpoint.phase_index, checkpoint.step))


def find_latest(directory: Place) -> Checkpoint | None:
    """The newest complete checkpoint in a directory, None without one."""
    found = find_all(directory)
    return found[-1] if found else None


def find_incomplete(directory: Place) -> list[Place]:
    """Directories that are named like checkpoints and hold none that is complete: a file was lost, cut or changed."""
    named: list[Place] = [*directory.glob("*-*")]
    files = files_at(directory)
    return [
        path
        for path in sorted(named, key=str)
        if not files.is_accounted_for(path) and path.is_dir() and read(path) is None
    ]


def find(path: Place) -> Checkpoint:
    """The checkpoint that a path means: itself, or the newest one of a run directory.

    Raises:
        UsageError: there is no complete checkpoint.
    """
    checkpoint = read(path) or find_latest(path / CHECKPOINTS)
    if checkpoint is None:
        raise UsageError(
            f"{path} is neither a complete checkpoint nor a run directory that holds one. Expected a directory with "
            f"{MANIFEST} and the files that it lists, of the sizes that it tells, or one with checkpoints/ in it."
        )
    return checkpoint
