"""How a command of this project ends: whatever ends it, with an exit code and a sentence, never with a traceback of
what is no fault of the program."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TextIO

from models.printable import printable
from models.write_errors import NO_ROOM

EXIT_FAILED = 1
"""Exit code of a command that the system refused something: the disk is full, a name too long, a file not readable."""

EXIT_WRONG_USE = 2
EXIT_OUTPUT_CLOSED = 128 + signal.SIGPIPE
"""Exit code of a command whose standard output nobody reads any more, as shells have it."""

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys instead of showing them, but for the tabulator and the end of a line."""

OWN_CONTROL = re.compile(r"(\r?)(.*?)((?:\x1b\[K)?)", re.DOTALL)
"""What our progress lines and tqdm begin with, what they say, and what they end with."""

UP = re.compile(r"(?:\x1b\[A)+")
"""What tqdm writes, alone, to get to a bar above."""

UNUSABLE = {errno.EPIPE, errno.EIO, *NO_ROOM}
"""Why an output cannot be written any more: its reader or its terminal is gone, or the disk of its file is full."""


class OutputClosed(SystemExit):
    """Standard output cannot be written any more. Ends a program quietly, unless it has work to finish first."""


def run_program(main: Callable[[], int | None]) -> int:
    """Run a command's main function as a program of its own; returns the exit code.

    * An argument that is no text in the system's encoding is refused (2): a name that cannot be printed or written
      down would fail somewhere in the middle of the work.
    * Characters that a terminal obeys are shown escaped (`\\x1b`), whether they come from a file's name or a model.
    * A standard stream that was closed before the start (`>&-`) takes everything and keeps nothing. One whose reader
      goes away (`| head`) raises `OutputClosed` once, and then does the same; standard error only does the same.
    * SIGTERM and SIGHUP end the program as an exception would, with 128 + their number; a second one acts at once.
      A signal that whoever started the program ignores (`nohup`) stays ignored.
    * Ctrl-C ends it with 130 and a line.
    * What the system refuses (OSError) ends it with a sentence that names the file, and 1; in a thread of a library, it
      is told in a sentence.
    """
    _open_missing_streams()
    sys.stdout = _guarded(sys.stdout, 1, raises=True)
    sys.stderr = _guarded(sys.stderr, 2, raises=False)
    threading.excepthook = _tell_of_thread
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        for place, argument in enumerate(sys.argv[1:], start=1):
            if not _is_text(argument):
                return _told(
                    f"Argument {place} is {printable(argument)}, which is no text in {sys.getfilesystemencoding()}, "
                    "the encoding of names here. Rename the file, or set another encoding (LC_ALL=C.UTF-8).",
                    EXIT_WRONG_USE,
                )
        status = main()
        sys.stdout.flush()
        return status or 0
    except SystemExit:
        sys.stdout.flush()  # here, where a reader that is gone is no surprise
        raise
    except KeyboardInterrupt:
        return _told("stopped", 128 + signal.SIGINT)
    except OSError as error:
        if error.strerror is not None and error.filename is None and error.errno not in UNUSABLE:
            raise  # of a connection, say: without a traceback nobody could tell what it is about
        return _told(explained(error), EXIT_FAILED)


def explained(error: Exception) -> str:
    """What an error says; what the system refused as a sentence: `runs/a/config.yaml: File name too long.`"""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    reason = f"{error.strerror}."
    if error.filename is None:
        return reason
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else str(error.filename)
    return f"{printable(name)}: {reason}"


def _escaped(text: str) -> str:
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def is_unusable(error: OSError) -> bool:
    """Whether an output that raised this cannot be written any more."""
    return error.errno in UNUSABLE


class GuardedStream(io.TextIOWrapper):
    """A standard stream of a program, as `run_program` says."""

    def __init__(self, stream: io.TextIOWrapper, *, raises: bool) -> None:
        self._raises = raises
        self._original = stream  # which closes the buffer when it goes
        self._is_closed = False
        # The other one, which Python keeps as sys.__stdout__, holds nothing back, and both lead to the same place.
        super().__init__(
            stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=stream.line_buffering
        )

    def write(self, text: str) -> int:
        """Write a text; what a terminal would obey is escaped, except what makes a line renew itself."""
        if self._is_closed:
            return len(text)
        shown = text
        if UP.fullmatch(text) is None:
            parts = OWN_CONTROL.fullmatch(text)
            assert parts is not None, "it matches everything"
            shown = parts[1] + _escaped(parts[2]) + parts[3]
        try:
            super().write(shown)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is still in memory."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if not is_unusable(error):
            raise error
        if self._is_closed:
            return
        self._is_closed = True
        # What is still in memory goes nowhere, and what other libraries and child processes write, too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self._raises:
            raise OutputClosed(EXIT_OUTPUT_CLOSED) from error


def _guarded(stream: TextIO | None, descriptor: int, *, raises: bool) -> TextIO:
    if stream is None:  # it was closed when Python started
        stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if type(stream) is not io.TextIOWrapper:  # somebody has put another one in its place
        return stream
    return GuardedStream(stream, raises=raises)


def _open_missing_streams() -> None:
    """Let closed standard streams lead nowhere: else the next file that is opened would take their numbers, and what a
    library or a child process writes to standard output would get into it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the system gives the lowest number that is free
            assert opened == descriptor
            os.set_inheritable(opened, True)


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _told(sentence: str, status: int) -> int:
    print(f"{_name()}: {sentence}", file=sys.stderr)
    return status


def _name() -> str:
    """The program as one would start it: `python -m trainer.pretrain`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else sys.argv[0]


def _tell_of_thread(error: threading.ExceptHookArgs) -> None:
    if isinstance(error.exc_value, OSError) and is_unusable(error.exc_value):
        print(f"{_name()}: {explained(error.exc_value)}", file=sys.stderr)
    else:
        threading.__excepthook__(error)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _forget_ends() -> None:
    """In a forked process: whoever forked it ends it, and means it."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_ends)
