"""Files that cannot be written, told in a sentence: which file, what it needs, and the way out."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.printable import printable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$|inline_container\.cc:\d+\] \. unexpected pos")
"""All that NumPy and PyTorch say of a full disk."""


class WriteError(OSError):
    """A file could not be written; its text is a whole sentence."""


@contextmanager
def writing(file: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Everything in the block writes to `file`, so an OSError there says that it could not be written; so does any
    other error that a full disk is behind (safetensors, NumPy and PyTorch have their own).

    Args:
        file: named in the message.
        num_bytes: how many bytes the file needs, as far as that is known.

    Raises:
        WriteError: in place of these.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and _no_room(error) is None:
            raise
        raise WriteError(write_sentence(file, error, num_bytes)) from error


def write_sentence(file: Path, error: Exception, num_bytes: int | None = None) -> str:
    """What a person has to know about a file that could not be written."""
    name = printable(str(file))
    again = "Nothing is left half-written. Make room, and give the same command again: it goes on."
    needs = "" if num_bytes is None else f" It needs {num_bytes:,} bytes."
    number = _no_room(error)
    if number == errno.ENOSPC:
        return f"There is no room for {name}: its disk has {_free_bytes(file)} bytes free.{needs} {again}"
    if number == errno.EDQUOT:
        return f"There is no room for {name}: your quota of that disk is used up.{needs} {again}"
    if number == errno.EFBIG:
        return f"{name} cannot be written: it is larger than this file system or `ulimit -f` allows."
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name} cannot be written: {printable(reason).removesuffix('.')}."


def _no_room(error: BaseException | None) -> int | None:
    """Which of the system's reasons for want of space is behind an error; None: none of them."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        for number in NO_ROOM:
            if os.strerror(number) in str(error):  # of a library in Rust or C++
                return number
        if SHORT_WRITE.search(str(error)) is not None:
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _free_bytes(file: Path) -> str:
    place = next((folder for folder in file.parents if folder.is_dir()), Path(os.curdir))
    try:
        return f"{shutil.disk_usage(place).free:,}"
    except OSError:
        return "no"
