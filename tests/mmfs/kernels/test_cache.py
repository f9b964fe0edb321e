from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmfs.kernels import cache
from mmfs.kernels.cache import cache_key, cached_binary

BINARY = b"\x7fELF" + bytes(range(256)) * 4096


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "below"))
    cache._warn_once.cache_clear()
    return tmp_path / "below" / "mmfs"


def never() -> bytes:
    raise AssertionError("compiled again")


def test_the_second_time_it_is_read(folder: Path) -> None:
    assert cached_binary("key", lambda: BINARY) == BINARY
    assert cached_binary("key", never) == BINARY
    assert [path.name for path in folder.iterdir()] == ["key.cubin"]


def test_everything_that_matters_is_in_the_key() -> None:
    key = cache_key("source", ("-a", "-b"), (13, 0))
    others = [
        cache_key("source ", ("-a", "-b"), (13, 0)),
        cache_key("source", ("-a-b",), (13, 0)),
        cache_key("source", ("-a", "-c"), (13, 0)),
        cache_key("source", ("-a", "-b"), (13, 1)),
    ]
    assert len({key, *others}) == 5
    assert key == cache_key("source", ["-a", "-b"], (13, 0))


@pytest.mark.parametrize("broken", [b"", b"\0" * 100])
def test_a_broken_file_is_replaced(folder: Path, broken: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "key.cubin").write_bytes(broken)
    assert cached_binary("key", lambda: BINARY) == BINARY
    assert cached_binary("key", never) == BINARY


def test_without_a_writable_folder_it_compiles_each_time_and_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache._warn_once.cache_clear()
    occupied = tmp_path / "file"
    occupied.write_text("a file where a folder is wanted: also root cannot write below it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    with pytest.warns(UserWarning, match=r"cannot keep compiled kernels in .*file/mmfs .* Set XDG_CACHE_HOME"):
        assert cached_binary("key", lambda: BINARY) == BINARY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cached_binary("other", lambda: BINARY) == BINARY


def test_a_failed_compilation_leaves_nothing(folder: Path) -> None:
    with pytest.raises(AssertionError, match="compiled again"):
        cached_binary("key", never)
    assert not folder.exists()


def test_writers_at_once_do_not_disturb_each_other(folder: Path) -> None:
    """Each writes a file of its own and renames it, so threads stand for processes."""

    def write_and_read(number: int) -> bool:
        return all(cached_binary(f"key{turn}", lambda: BINARY) == BINARY for turn in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(8)))
    assert sorted(path.name for path in folder.iterdir()) == [f"key{turn}.cubin" for turn in range(5)]


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/mmfs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert cache.cache_folder() == Path("/home/user/.cache/mmfs")
