import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from models import MMInterleaved
from models.generation.documents import PlainText, batch_of, cut_to_fit, pieces_of, text_ids
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
        (None, "documents is one NoneType; expected a list"),
        ({"a": 1}, "documents is one dict"),
        ((text for text in "ab"), "documents is one generator"),
        ([b"ab"], r"documents\[0\] is a bytes; .* models\.images\.image_file\.open_image"),
        ([Path("a.png")], r"documents\[0\] is a PosixPath"),
        (["a", "snails/1.PNG"], r"documents\[1\] is 'snails/1\.PNG', the name or address of an image, given as text"),
        ([["https://example.org/a.jpg?size=2"]], r"documents\[0\]\[0\] is 'https://example"),
        (["data:image/png;base64," + "A" * 999], "is 'data:image/png;base64,A{55}\\.\\.\\.', the name"),
        (["/home/my images/a.webp"], "the name or address of an image"),
        (["a\x1b[2J.png"], r"is 'a\\x1b\[2J\.png'"),
    ],
)
def test_what_is_no_document_gets_a_sentence(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        batch_of(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo.",
        "What is in a.png?",
        " a.png",
        "see https://example.org/a.png",
        PlainText("a.png"),
        "png",
        "a.pngs",
    ],
)
def test_what_is_meant_as_text_is_text(text: str) -> None:
    assert batch_of([text]) == ([[text]], False)


def test_a_token_that_nobody_marked_as_special_is_not_read_from_text(model: MMInterleaved) -> None:
    assert BOI not in text_ids("<BoI>", model.processor, model.config)
    stored = json.loads(model.processor.tokenizer.to_str())
    for token in stored["added_tokens"]:
        token["special"] = False
    model.processor.tokenizer = Tokenizer.from_str(json.dumps(stored))
    with pytest.raises(ValueError, match="The text spells <BoI>, which this tokenizer reads as a token"):
        text_ids("a <BoI>", model.processor, model.config)


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
    state = TorchGenerationState(model)
    assert cut_to_fit(segments, state, num_new, 0) == segments[3 - num_kept :]
    state.read([[[1, 5, 6]]])
    assert cut_to_fit(segments, state, num_new, 0) == segments[3 - num_kept :], "what has been read is part of them"
