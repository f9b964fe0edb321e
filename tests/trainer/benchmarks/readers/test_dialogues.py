import json

import pytest

from trainer.benchmarks.readers.dialogues import read_visdial
from trainer.benchmarks.sample import ImageFile
from trainer.errors import UsageError


def files(data):
    folder = data / "visdial"
    return folder / "visdial_1.0_val.json", folder / "visdial_1.0_val_dense_annotations.json", folder


def test_earlier_rounds_are_read(data) -> None:
    dialogues, dense, folder = files(data)
    sample = read_visdial(dialogues, dense, folder, "val", None).samples[0]
    image, caption, *rounds = sample.document
    assert isinstance(image, ImageFile)
    assert caption
    assert rounds == ["is it in colour", "yes", "do you see people", "no", "is there a background"]
    assert len(sample.candidates) == len(sample.truth["relevance"]) == 100
    assert (sample.truth["round"], sample.truth["option"]) == (3, 0)


def test_the_released_code_leaves_out_the_last_round(data) -> None:
    dialogues, dense, folder = files(data)
    sample = read_visdial(dialogues, dense, folder, "val", None, history="release").samples[0]
    assert list(sample.document[2:]) == ["is it in colour", "yes", "is there a background"]


def test_relevances_that_are_missing_or_too_few(data, tmp_path) -> None:
    dialogues, dense, folder = files(data)
    entries = json.loads(dense.read_text())
    other = tmp_path / "dense.json"
    other.write_text(json.dumps(entries[1:]))
    with pytest.raises(UsageError, match="has no relevances for image 1"):
        read_visdial(dialogues, other, folder, "val", None)
    entries[0]["gt_relevance"] = [0.5]
    other.write_text(json.dumps(entries))
    with pytest.raises(UsageError, match="entry 0: there are 1 relevances for 100 options"):
        read_visdial(dialogues, other, folder, "val", None)
    entries[0]["round_id"] = 9
    other.write_text(json.dumps(entries))
    with pytest.raises(UsageError, match="its round 9 is one of 3"):
        read_visdial(dialogues, other, folder, "val", None)
