"""Pickles that hold data, and pickles that would do something."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from trainer.data.sources.pickles import load_array, load_pickle, text_of


@pytest.mark.parametrize("protocol", range(5))
def test_plain_data_comes_back(tmp_path, protocol):
    data = {"a": [1, 2.5, None, True, "Käse"], "b": (b"\xff", -(10**30)), "c": {"d": set()} if protocol == 4 else {}}
    file = tmp_path / "data.p"
    file.write_bytes(pickle.dumps(data, protocol))
    assert load_pickle(file) == data


def test_texts_of_python_2_are_utf8(tmp_path):
    file = tmp_path / "data.p"
    file.write_bytes(b"(lp0\nS'K\\xc3\\xa4se'\np1\naS'plain'\np2\na.")  # as Python 2 wrote ["K\xc3\xa4se", "plain"]
    assert [text_of(one) for one in load_pickle(file)] == ["Käse", "plain"]
    assert [text_of("Käse"), text_of(b"K\xc3\xa4se")] == ["Käse", "Käse"]
    with pytest.raises(TypeError, match="a list where a text should be"):
        text_of([])


ARRAYS = {
    "texts": (np.array([b"one/1.png", b"two/2.png"]), [b"one/1.png", b"two/2.png"]),
    "unicode": (np.array([["a", "bc"], ["d", ""]]), [["a", "bc"], ["d", ""]]),
    "dictionary": (np.array({"x": ["y"]}, dtype=object), [{"x": ["y"]}]),
    "lists": (np.array([[1, 2], [3], None], dtype=object), [[1, 2], [3], None]),
    "square": (np.array([["a", 1], [None, 2.5]], dtype=object), [["a", 1], [None, 2.5]]),
    "inside": (np.array([np.arange(3), np.array([7], dtype=">i2"), np.int64(5)], dtype=object), [[0, 1, 2], [7], 5]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_become_lists(tmp_path, name):
    array, expected = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    assert load_array(tmp_path / "a.npy") == expected


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_in_pickles_of_every_age(tmp_path, protocol):
    file = tmp_path / "a.p"
    file.write_bytes(pickle.dumps({"ids": np.array([3, 1], dtype=np.int64), "one": np.float32(0.5)}, protocol))
    assert load_pickle(file) == {"ids": [3, 1], "one": 0.5}


class Runs:
    """Unpickled as usual, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def with_state(name: bytes, state: object) -> bytes:
    """A pickle that sets the state of what it names."""
    return b"c" + name.replace(b".", b"\n") + b"\n" + pickle.dumps(state, 2)[2:-1] + b"b."


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pickle.dumps(collections.OrderedDict(), 2), id="another-class"),
        pytest.param(pickle.dumps(print), id="a-function"),
        pytest.param(pickle.dumps(np.load), id="of-numpy"),
        pytest.param(pickle.dumps(np.array([(1, 2)], dtype="i4,i4")), id="records"),
        pytest.param(pickle.dumps(np.array([1 + 2j])), id="complex"),
        pytest.param(pickle.dumps(np.zeros((2, 2, 2))), id="three-dimensions"),
        pytest.param(pickle.dumps(np.array([1, 2])).replace(b"K\x02\x85", b"K\x09\x85"), id="wrong-shape"),
        pytest.param(with_state(b"numpy.dtype", {"_function": 1}), id="changes-a-name"),
        pytest.param(with_state(b"numpy.ndarray", (None, {"_function": 1})), id="changes-a-slot"),
        pytest.param(b"cnumpy\nndarray\n(t\x81.", id="makes-a-name"),
        pytest.param(b"cnumpy\nndarray\n(tR.", id="calls-a-name"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 1 << 40), id="declares-a-terabyte"),
        pytest.param(b"", id="empty"),
        pytest.param(pickle.dumps([1, 2])[:-3], id="cut-off"),
        pytest.param(b"not a pickle", id="text"),
    ],
)
def test_anything_else_is_refused(tmp_path, data):
    file = tmp_path / "a.p"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as plain data"):
        load_pickle(file)


def test_nothing_is_run(tmp_path):
    file, made = tmp_path / "a.p", tmp_path / "made"
    file.write_bytes(pickle.dumps([Runs(made)]))
    with pytest.raises(ValueError, match=r"wants to use (posix|nt)\.mkdir, and nothing in it is run"):
        load_pickle(file)
    np.save(tmp_path / "a.npy", np.array([Runs(made), None], dtype=object))
    with pytest.raises(ValueError, match=r"wants to use (posix|nt)\.mkdir"):
        load_array(tmp_path / "a.npy")
    assert not made.exists()
    pickle.loads(file.read_bytes())
    assert made.exists(), "or the file above shows nothing"


def test_damaged_arrays_are_told(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.arange(10))
    objects = io.BytesIO()
    np.save(objects, np.array([None, "a"], dtype=object))
    body = objects.getvalue().index(b"\x80\x04")
    for data, sentence in (
        (b"PK\x03\x04", "is no .npy file"),
        (whole.getvalue()[:20], "cannot be read"),
        (whole.getvalue()[:-8], "cannot be read"),
        (objects.getvalue()[:-4], "cannot be read as plain data"),
        (objects.getvalue()[:body] + pickle.dumps({}), "holds a dict where its array should be"),
    ):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(ValueError, match=sentence):
            load_array(tmp_path / "a.npy")
