"""A file of charts for TensorBoard, written at once.

`torch.utils.tensorboard.SummaryWriter` writes from a thread of its own, which prints a traceback where the disk is full
before the run can say so in a sentence.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from models.write_errors import writing
from trainer.logging.appended_file import AppendedFile


class TensorBoardFile:
    """Scalars by step, in a new file each time a run starts or goes on.

    Args:
        directory: what `tensorboard --logdir` is given; made if it is not there.
        purge_step: points of this step and later ones, which an earlier file has, are not shown.

    Raises:
        WriteError: here and in every method: the disk is full, say.
    """

    def __init__(self, directory: Path, *, purge_step: int) -> None:
        # TensorBoard reads a directory's files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():019d}.{socket.gethostname()}.{os.getpid()}"
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._file = AppendedFile(directory / name)
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Points at a step, by the names of their charts."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Nothing is written after it."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
