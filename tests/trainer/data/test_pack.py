"""Documents to tokens and rows."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from models.plain_text import PlainTextEncoder
from trainer.data.document import Document, Image, Text
from trainer.data.emoji.tasks import TASKS, documents
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.data.pack import SpecialTokens, Tokens, cut, pack_row, tokenize

PAD, BOS, EOS, BOI, IMAGE = range(5)
PIXELS = np.zeros((64, 64, 3), dtype=np.uint8)
ENCODE = PlainTextEncoder(load_tokenizer())
SPECIAL = SpecialTokens(PAD, BOS, EOS, BOI, IMAGE)


def tokens_of(*segments: Text | Image, num_visual_tokens: int = 2) -> Tokens:
    return tokenize(Document(segments, "made", "made/1", 1, {}), ENCODE, SPECIAL, num_visual_tokens)


def ids(text: str) -> list[int]:
    return load_tokenizer().encode(text).ids


def test_special_tokens_are_found_by_name():
    assert SpecialTokens.of(load_tokenizer()) == SPECIAL
    with pytest.raises(ValueError, match=r"has no <pad>, <s>, </s>, <BoI>, <image>"):
        SpecialTokens.of(Tokenizer(BPE()))


def test_a_question_about_an_image():
    document = tokens_of(Image(PIXELS), Text(" which number is under the snail?", loss=False), Text(" 47"))
    question, answer = ids(" which number is under the snail?"), ids(" 47")
    assert document.input_ids == [BOS, BOI, IMAGE, IMAGE, *question, *answer, EOS]
    # Shifted: the last token of the question predicts the answer, its last digit the end.
    none = [-100] * (4 + len(question) - 1)
    assert document.targets == [*none, *answer, EOS, -100]
    assert [(image.column, image.drawn) for image in document.images] == [(2, False)]


def test_the_begin_of_an_image_after_text_is_to_be_predicted_and_its_placeholders_are_not():
    document = tokens_of(Text("a snail"), Image(PIXELS), Image(PIXELS), Text(" a", loss=False), Image(PIXELS))
    snail, a = ids("a snail"), ids(" a")
    assert document.input_ids == [BOS, *snail, BOI, IMAGE, IMAGE, BOI, IMAGE, IMAGE, *a, BOI, IMAGE, IMAGE, EOS]
    assert len(a) == 1  # its first token would be predicted by the placeholder before it
    assert document.targets == [*snail, BOI, *[-100] * 6, BOI, -100, -100, EOS, -100]
    assert [image.drawn for image in document.images] == [True, True, True]


@pytest.mark.parametrize("task", TASKS)
def test_tokens_of_every_family(task):
    for document in documents(task, "train", 0, 30):
        tokens = tokenize(document, ENCODE, SPECIAL, 4)
        sequence, targets = np.array(tokens.input_ids), np.array(tokens.targets)
        assert len(sequence) == len(targets)
        supervised = np.flatnonzero(targets != -100)
        np.testing.assert_array_equal(targets[supervised], sequence[supervised + 1])
        assert IMAGE not in targets
        assert sequence[0] == BOS
        assert sequence[-1] == EOS
        assert targets[-2] == EOS
        begins = np.flatnonzero(sequence == BOI)
        assert [image.column for image in tokens.images] == (begins + 1).tolist()
        assert (sequence[begins[:, None] + np.arange(1, 5)] == IMAGE).all()
        assert (sequence == IMAGE).sum() == 4 * len(begins)
        wanted = [ids(part.text) for part in document.segments if isinstance(part, Text) and part.loss]
        learned = [token for token in targets.tolist() if token > IMAGE]
        assert learned == [token for part in wanted for token in part]


def made(length: int) -> Tokens:
    return Tokens(f"made/{length}", "made", [BOS] * length, [-100] * length, [])


def test_rows_take_whole_documents_until_the_next_does_not_fit():
    stream = iter([made(3), made(4), made(4), made(1)])
    row = pack_row(stream, 10)
    assert [len(document.input_ids) for document in row.documents] == [3, 4]
    assert row.num_tokens == 7
    assert pack_row([made(3), made(7), made(1)], 10).num_tokens == 10
    assert pack_row([made(2)], 10).num_tokens == 2


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="Document made/11 has 11 tokens, a row 10"):
        pack_row([made(3), made(11)], 10)


def test_a_cut_document_keeps_whole_images():
    document = tokens_of(Text("a snail"), Image(PIXELS), Text(" a"), Image(PIXELS), Text(" snail"))
    (first, second), length = (image.column for image in document.images), len(document.input_ids)
    for end in range(length + 3):
        part = cut(document, end, 2, max_images=5)
        assert part.input_ids == document.input_ids[: len(part.input_ids)]
        inside = [column for column in (first, second) if column - 1 < end < column + 2]
        assert len(part.input_ids) == (inside[0] - 1 if inside else min(end, length))
        assert [image.column for image in part.images] == [c for c in (first, second) if c + 2 <= end]
        assert len(part.targets) == len(part.input_ids)
        if 0 < len(part.targets) < length:
            assert part.targets == [*document.targets[: len(part.targets) - 1], -100]
    assert len(cut(document, length, 2, max_images=1).input_ids) == second - 1
    assert len(cut(document, length, 2, max_images=0).input_ids) == first - 1
    assert cut(document, length, 2, max_images=2) is document
