"""Pickles and object arrays as data: nothing that the file names is ever run.

A pickle is a program, and one from the internet may do anything. Here it can make numbers, texts, lists and
dictionaries. The few names that NumPy's arrays need stand for what is in this file; any other name is an error.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.data.sources.regular_files import open_regular, require_size

TYPE_CODE = re.compile(r"[<>|=]?(?:O8?|[SU]\d+|[iuf][1248]|b1)")
NPY_MAGIC = b"\x93NUMPY"

MAX_BYTES = 256 << 20
"""Of a file; published ones have a tenth of it."""

MAX_OPERATIONS = 1 << 25
"""Of a pickle; each may make a value of 200 bytes."""


def load_pickle(path: Path) -> Any:
    """What a pickle holds; arrays are lists, and texts of Python 2 have a character for each of their bytes.

    Raises:
        ValueError: it is damaged, or holds more than plain data.
    """
    with open_regular(path) as file:
        require_size(file, path, MAX_BYTES)
        return _load(file, path)


def load_array(path: Path) -> list[Any]:
    """The elements of a .npy file as nested lists, one element where the array has no dimensions.

    Raises:
        ValueError: it is damaged, or holds more than plain data.
    """
    with open_regular(path) as file:
        num_bytes = require_size(file, path, MAX_BYTES)
        if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise ValueError(f"{path} is no .npy file.")
        file.seek(0)
        try:
            shape, _, dtype = read_npy_header(file)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if min(shape, default=0) < 0:
            raise ValueError(f"{path} cannot be read: its header declares an array of shape {shape}.")
        if dtype.hasobject:
            loaded = _load(file, path)
            if not isinstance(loaded, _Array):
                raise ValueError(f"{path} holds a {type(loaded).__name__} where its array should be.")
            return list(loaded)
        declared = math.prod(shape) * dtype.itemsize
        if declared != num_bytes - file.tell() or (not declared and math.prod(max(size, 1) for size in shape) > 1):
            raise ValueError(
                f"{path} cannot be read: its header declares an array of shape {shape}, {declared:,} bytes, and "
                f"{num_bytes - file.tell():,} follow."
            )
    try:
        return list(np.atleast_1d(np.load(path, allow_pickle=False)).tolist())
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first index runs fastest, and type of a .npy file's array, which begins where this ends.

    Raises:
        ValueError: it is damaged.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # a header is Python text; NumPy passes on what its tokenizer says of it
        raise ValueError(f"Its header is damaged: {error}") from error


def text_of(value: Any) -> str:
    """A text that Python 2 or 3 has pickled; the former's are bytes of UTF-8.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, str):
        try:
            return value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return value
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    raise TypeError(f"a {type(value).__name__} where a text should be")


def _load(file: IO[bytes], path: Path) -> Any:
    try:
        data = file.read()
        _check_operations(data)
        return _Unpickler(io.BytesIO(data), encoding="latin-1").load()
    except Exception as error:  # whatever a damaged program may run into
        raise ValueError(f"{path} cannot be read as plain data: {type(error).__name__}: {error}") from error


def _check_operations(data: bytes) -> None:
    """See to it that what a pickle declares is there, before the unpickler believes it.

    A memo of number n makes it allocate 16 n bytes, and there is one of four billion in nine bytes. An honest pickle
    has no more memos than bytes.

    Raises:
        pickle.UnpicklingError: a memo has too large a number, or there is no end of operations.
    """
    position = 0
    for _ in range(MAX_OPERATIONS):
        code = data[position : position + 1]
        position += 1
        start, end = position, _end_of_argument(data, code, position)
        if not code or end > len(data):
            raise pickle.UnpicklingError("it is cut off")
        if code in (pickle.PUT, pickle.LONG_BINPUT):
            argument = data[start:end]
            memo = int(argument) if code == pickle.PUT else int.from_bytes(argument, "little")
            if memo > len(data):
                raise pickle.UnpicklingError(f"it has {len(data):,} bytes and wants memo number {memo:,}")
        if code == pickle.STOP:
            return
        position = end
    raise pickle.UnpicklingError(f"it has more than {MAX_OPERATIONS:,} operations")


def _end_of_argument(data: bytes, code: bytes, start: int) -> int:
    """Where the argument of an operation ends; beyond the data, where it is not all there."""
    size = _ARGUMENT_SIZES.get(code)
    if size is None:
        raise pickle.UnpicklingError(f"it has an unknown operation, {code!r}")
    if size >= 0:
        return start + size
    if size == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if code in (pickle.GLOBAL, pickle.INST) else 1):
            start = data.find(b"\n", start) + 1 or len(data) + 1
        return start
    count_bytes = _COUNT_BYTES[size]
    return start + count_bytes + int.from_bytes(data[start : start + count_bytes], "little")


_ARGUMENT_SIZES = {
    operation.code.encode("latin-1"): 0 if operation.arg is None else operation.arg.n
    for operation in pickletools.opcodes
}
_COUNT_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return _Name(_Array.made if name == "_reconstruct" else _scalar)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Name(_Type if name == "dtype" else _refused)
        if (module, name) == ("_codecs", "encode"):
            return _Name(_encoded)
        raise pickle.UnpicklingError(f"it wants to use {module}.{name}, and nothing in it is run")


class _Name:
    """Stands for a function that a pickle names; nothing can be done with it but to call it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        _refused()


def _refused(*_arguments: Any) -> Any:
    raise pickle.UnpicklingError("it wants to change what it may only name")


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it has bytes in {encoding!r}")
    return text.encode("latin-1")


class _Type:
    """A dtype."""

    def __init__(self, code: str, *_flags: Any) -> None:
        if not TYPE_CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"it has an array of type {code!r}")
        self._code = code.lstrip("<>|=")
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, sub_array, names, *_ = state
        if order not in ("<", ">", "|", "=") or sub_array is not None or names is not None:
            raise pickle.UnpicklingError("it has an array of records")
        self._order = order

    @property
    def is_object(self) -> bool:
        return self._code.startswith("O")

    def read(self, data: bytes | str) -> list[Any]:
        raw = data.encode("latin-1") if isinstance(data, str) else data
        order = "" if self._order == "|" else self._order
        return list(np.frombuffer(raw, dtype=order + self._code).tolist())


def _scalar(dtype: _Type, data: Any) -> Any:
    return data if dtype.is_object else dtype.read(data)[0]


class _Array(list[Any]):
    """An array of up to two dimensions as nested lists."""

    @classmethod
    def made(cls, *_arguments: Any) -> _Array:
        """The empty one that a pickle fills afterwards."""
        return cls()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        values = list(data) if dtype.is_object else dtype.read(data)
        if not all(isinstance(size, int) and 0 <= size <= len(values) for size in shape):
            raise pickle.UnpicklingError(f"it has an array of shape {shape} with {len(values)} values")
        if len(values) != math.prod(shape) or len(shape) > 2 or (is_fortran and len(shape) == 2):
            raise pickle.UnpicklingError(f"it has an array of shape {shape} with {len(values)} values")
        if len(shape) == 2:
            values = [values[row * shape[1] : (row + 1) * shape[1]] for row in range(shape[0])]
        self[:] = values
