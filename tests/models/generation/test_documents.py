import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleaved
from models.generation.documents import batch_of, cut_to_fit, pieces_of
from models.generation.torch_state import TorchGenerationState
from rows import BOI

IMAGE = Image.new("RGB", (32, 32), "red")


@pytest.mark.parametrize(
    ("given", "documents", "batched"),
    [
        ([], [[]], False),
        (["a", IMAGE], [["a", IMAGE]], False),
        (("a",), [["a"]], False),
        ([["a"], [], (IMAGE, "b")], [["a"], [], (IMAGE, "b")], True),
        ([[]], [[]], True),
    ],
    ids=["empty", "document", "tuple", "batch", "batch-of-one"],
)
def test_one_document_or_several(given, documents, batched) -> None:
    assert batch_of(given) == (documents, batched)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (IMAGE, r"documents is one Image; expected a list of texts and images: \[it\]"),
        (torch.zeros(3, 4, 4), "documents is one Tensor"),
        ([None], r"documents\[0\] is a NoneType; expected str, PIL image"),
        ([["a", {}]], r"documents\[0\]\[1\] is a dict"),
        (["a", ["b"]], "documents holds 1 lists and 1 segments"),
    ],
)
def test_what_is_no_document_gets_a_sentence(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        batch_of(wrong)


def test_an_image_stands_behind_its_begin_of_image(model: MMInterleaved) -> None:
    assert pieces_of("ab", model.processor, model.config) == [model.processor.encode_text("ab")]
    for form in (IMAGE, np.asarray(IMAGE), model.processor.encode_image(IMAGE)):
        begin, pixels = pieces_of(form, model.processor, model.config)
        assert begin == [BOI]
        assert torch.equal(pixels, model.processor.encode_image(IMAGE))


@pytest.mark.parametrize(("num_new", "num_kept"), [(501, 3), (502, 2), (505, 2), (506, 1), (600, 1)], ids=str)
def test_a_document_is_cut_between_segments(model: MMInterleaved, num_new: int, num_kept: int) -> None:
    """The language model reads 512 tokens; the segments have 4, 3 and 4 of them."""
    segments = [pieces_of(text, model.processor, model.config) for text in ("abcd", IMAGE, "efg")]
    segments[2].append([9])
    kept = cut_to_fit(segments, TorchGenerationState(model), num_new, 0)
    assert kept == segments[3 - num_kept :]
