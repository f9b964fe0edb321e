"""Objects at URLs, read through fsspec: s3, Google Cloud Storage, the Hugging Face Hub and web servers.

Credentials come from where each library looks for them: environment variables, the files of `aws`, `gcloud` and `hf`,
the machine's role; ~/.netrc for https. Errors of any library become `StorageError`, a sentence without secrets; a
missing object becomes FileNotFoundError. What may pass (503, a timeout, a connection or a body cut off) is tried again,
longer and longer apart.

fsspec's file systems do not survive a fork, so none is kept: `filesystem_of` finds the one of this process.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import io
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, TypeVar

from models.listed_paths import is_below
from models.printable import printable
from models.urls import WEB_SCHEMES, check_url, scheme_of, shown_url

T = TypeVar("T")

PACKAGES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "hf": ("huggingface_hub", "train"),
    "https": ("aiohttp", "https"),
    "http": ("aiohttp", "https"),
}
"""For each scheme the package that reads it, and the extra of this project that brings it."""

NUM_TRIES = 6
FIRST_PAUSE = 0.25
"""Seconds after the first try; every further pause is twice as long, up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = 30.0
SMALL_BLOCK, LARGE_BLOCK = 64 << 10, 4 << 20
"""Bytes of a ranged read after a jump, and at most when what is read lies close together: at 30 ms a request, a
mebibyte is read through sooner than jumped over."""

NEAR = 1 << 20


class StorageError(OSError):
    """Object storage did not give out, or take, an object; the text is a whole sentence."""


@dataclass(frozen=True)
class StoredObject:
    """What storage says of an object."""

    url: str
    size_bytes: int
    etag: str | None
    """Changes with the content; None where the storage has no such thing."""


def filesystem_of(url: str) -> Any:
    """The fsspec file system that reads a URL, for this process and thread.

    Raises:
        ValueError: nothing here reads such URLs, or it holds a secret.
        ModuleNotFoundError: a package is missing; the sentence says how to install it.
    """
    scheme = scheme_of(check_url(url, "The place"))
    package, extra = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{shown_url(url)} is read with {package}, which is not installed: pip install {package}, or this project "
            f"with its extra '{extra}'."
        )
    import fsspec  # type: ignore[import-untyped]

    options: dict[str, Any] = {"use_listings_cache": False}  # a list that is kept would not show what has changed
    if scheme in WEB_SCHEMES:
        options["client_kwargs"] = {"trust_env": True}  # ~/.netrc and proxies
    return fsspec.filesystem(scheme, **options)


def describe(url: str) -> StoredObject:
    """Size and ETag of an object. Raises FileNotFoundError, StorageError."""
    return retried(url, lambda: _described(url, filesystem_of(url).info(url)))


def exists(url: str) -> bool:
    """Whether there is an object of this name, or one below it. Raises StorageError."""
    try:
        retried(url, lambda: filesystem_of(url).info(url))
    except FileNotFoundError:
        return False
    return True


def list_objects(url: str) -> list[StoredObject]:
    """All objects below a URL, at any depth, in the order of their names; none if there are none. Of a web server, the
    links on its page.

    Raises:
        StorageError: it cannot be listed.
    """
    scheme = scheme_of(url)

    def listed() -> list[StoredObject]:
        try:
            found = filesystem_of(url).find(url, detail=True)
        except FileNotFoundError:
            return []
        if scheme in WEB_SCHEMES:  # which tells names alone
            return [_described(name, filesystem_of(name).info(name)) for name in found]
        return [_described(f"{scheme}://{name.lstrip('/')}", info) for name, info in found.items()]

    return sorted(retried(url, listed), key=lambda found: found.url)


def names_below(url: str) -> list[str]:
    """URLs of the objects and folders directly below a URL, in the order of their names; none if there are none. Of a
    web server, the links on its page that lead there.

    Raises:
        StorageError: it cannot be listed.
    """
    scheme, base = scheme_of(url), url.rstrip("/") + "/"
    is_web = scheme in WEB_SCHEMES

    def listed() -> list[str]:
        try:
            found: list[str] = filesystem_of(url).ls(base if is_web else url, detail=False)
        except FileNotFoundError:
            return []
        return found

    found = retried(url, listed)
    if is_web:  # links may lead anywhere: to other orders of the same list, up, or further down
        below = {name.removeprefix(base).partition("/")[0] for name in found if name.startswith(base)}
        return [base + name for name in sorted(below) if re.match(r"[^?#.]|\.[^.]", name)]
    return sorted({f"{scheme}://{name.strip('/')}" for name in found} - {base.rstrip("/")})


def objects_below(url: str, patterns: Collection[str]) -> dict[str, StoredObject]:
    """Those of `list_objects` whose path below the URL matches a pattern (of `fnmatch`), by that path.

    Raises:
        StorageError: it cannot be listed, or a path leads elsewhere ("../"), which a file of this name would too.
    """
    base = url.rstrip("/") + "/"
    named = {one.url.removeprefix(base): one for one in list_objects(url)}
    found = {name: one for name, one in named.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    if elsewhere := [name for name in found if not is_below(name)]:
        raise StorageError(
            f"{shown_url(url)} has an object {elsewhere[0]!r}; expected names of files below a folder. Remove the "
            "object, or take another place."
        )
    return found


def read_range(url: str, start: int, size: int) -> bytes:
    """A part of an object, in one request; fewer bytes only where the object ends.

    Raises:
        FileNotFoundError: it is not there.
        StorageError: it is not given out, or the server does not serve ranges.
    """
    if size <= 0:
        return b""

    def read() -> bytes:
        data: bytes = filesystem_of(url).cat_file(url, start=start, end=start + size)
        if len(data) > size:
            raise StorageError(f"{shown_url(url)} comes from a server that does not serve parts of files (ranges).")
        return data

    return retried(url, read)


def read_object(url: str) -> bytes:
    """A whole, small object, in one request. Raises FileNotFoundError, StorageError."""
    return retried(url, lambda: filesystem_of(url).cat_file(url, **_in_one_request(url)))


def open_url(url: str, size_bytes: int | None = None) -> IO[bytes]:
    """An object to read and to seek in, by ranged requests.

    Args:
        url: of the object.
        size_bytes: its size, if it is known; else it is asked for.

    Raises:
        FileNotFoundError, StorageError: here and while it is read.
    """
    return io.BufferedReader(RangedFile(url, describe(url).size_bytes if size_bytes is None else size_bytes))


def download(url: str, file: Path, size_bytes: int) -> None:
    """An object into a file, in one request of all of it (and others where that was cut off).

    Raises:
        FileNotFoundError: it is not there.
        StorageError: it is not given out, or has another size.
    """

    def got() -> None:
        filesystem_of(url).get_file(url, str(file), **_in_one_request(url))
        if (found := file.stat().st_size) != size_bytes:
            raise ConnectionError(f"{found:,} bytes came, not {size_bytes:,}")

    retried(url, got)


def _in_one_request(url: str) -> dict[str, Any]:
    """s3fs would ask for the size first, and then for several parts at once."""
    return {"max_concurrency": 1} if scheme_of(url) == "s3" else {}


def download_all(objects: Mapping[str, StoredObject], folder: Path) -> None:
    """Objects of `objects_below` into files of these names below a folder. Raises as `download` does."""
    for name, one in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        download(one.url, folder / name, one.size_bytes)


def retried(url: str, work: Callable[[], T], *, doing: str = "read", refusal: str = "is not given out") -> T:
    """What `work` returns, tried up to `NUM_TRIES` times.

    Args:
        url: named in messages.
        work: what is tried.
        doing: what it does to the object, for the sentence after the last try.
        refusal: says that the storage will never do it.

    Raises:
        FileNotFoundError: the object is not there.
        StorageError: the storage refuses, or fails again and again.
    """
    pause = FIRST_PAUSE
    for number in range(1, NUM_TRIES + 1):
        try:
            return work()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "There is no such object", shown_url(url)) from error
        except (StorageError, ModuleNotFoundError, ValueError):
            raise
        except Exception as error:  # of any library below
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise  # of this machine's disk
            if not may_pass(error):
                raise StorageError(f"{shown_url(url)} {refusal}: {reason_of(error, url)}") from error
            if number == NUM_TRIES:
                raise StorageError(
                    f"{shown_url(url)} could not be {doing} in {NUM_TRIES} tries: {reason_of(error, url)}"
                ) from error
        time.sleep(pause * random.uniform(0.5, 1.5))  # not all processes at once
        pause = min(2 * pause, LONGEST_PAUSE)
    raise AssertionError("the last try returns or raises")


def may_pass(error: BaseException) -> bool:
    """Whether an error of a library may be gone at another try."""
    if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 425, 429)
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidURL"}:
        return False
    return isinstance(error, OSError | EOFError | TimeoutError | asyncio.TimeoutError) or bool(
        names & {"ClientError", "HTTPClientError", "BotoCoreError", "HttpError", "HfHubHTTPError"}
    )


def reason_of(error: BaseException, url: str) -> str:
    """What an error says, on one line and without secrets of the URL."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(text.replace(url, shown_url(url)))[:300].rstrip(".") + "."


def _described(url: str, info: dict[str, Any]) -> StoredObject:
    if info.get("type") == "directory":
        raise FileNotFoundError(url)
    if info.get("size") is None:
        raise StorageError(f"{shown_url(url)} comes from a server that does not tell the sizes of its files.")
    etag = next((str(info[name]) for name in ("ETag", "etag", "blob_id", "md5Hash") if info.get(name)), None)
    return StoredObject(url, int(info["size"]), etag)


class RangedFile(io.RawIOBase):
    """An object as a file. Blocks grow while what is read lies close together, and are small after a jump, so that
    large bodies between two headers are not read."""

    def __init__(self, url: str, size_bytes: int) -> None:
        self._url = url
        self._size = size_bytes
        self._position = 0
        self._block, self._block_start = b"", 0
        self._next_size = SMALL_BLOCK

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, "A seek before the beginning")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        place = self._position - self._block_start
        if not 0 <= place < len(self._block):
            is_near = self._block != b"" and 0 <= place - len(self._block) <= NEAR
            self._next_size = min(2 * self._next_size, LARGE_BLOCK) if is_near else SMALL_BLOCK
            size = min(max(self._next_size, wanted), self._size - self._position)
            block = read_range(self._url, self._position, size)
            if len(block) < size:
                raise StorageError(f"{shown_url(self._url)} ends before byte {self._position + size:,}.")
            self._block, self._block_start, place = block, self._position, 0
        part = self._block[place : place + wanted]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)
