import json
import pickle

import pytest

from trainer.benchmarks.readers.expressions import read_references
from trainer.errors import UsageError


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


def test_every_sentence_is_a_sample(data, tmp_path) -> None:
    folder = data / "refcoco"
    split = read_references(folder / "refs(unc).p", folder / "instances.json", data / "coco/train2014", "testA", None)
    first = split.samples[0]
    assert first.document[1].startswith("the ")
    assert first.truth["width"] == first.truth["height"] == 64
    listed = pickle.loads((folder / "refs(unc).p").read_bytes())
    listed[1]["sentences"] *= 2
    (tmp_path / "refs(unc).json").write_text(json.dumps(listed))
    both = read_references(tmp_path / "refs(unc).json", folder / "instances.json", tmp_path, "testA", None)
    assert [sample.id for sample in both.samples][:2] == ["4-0", "4-1"]


def test_a_pickle_is_not_run(data, tmp_path, capsys) -> None:
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UsageError, match="cannot be read as plain data"):
        read_references(tmp_path / "refs(unc).p", data / "refcoco/instances.json", tmp_path, "val", None)
    assert "it ran" not in capsys.readouterr().out


def test_what_is_missing_is_named(data, tmp_path) -> None:
    folder = data / "refcoco"
    with pytest.raises(UsageError, match=r"has no split 'test'; it has testA, testB, val"):
        read_references(folder / "refs(unc).p", folder / "instances.json", tmp_path, "test", None)
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(UsageError, match="has no annotation 101"):
        read_references(folder / "refs(unc).p", tmp_path / "instances.json", tmp_path, "val", None)
