import pytest
import torch

from models.sequence import attention_mask, gather_context, image_visible, token_visible
from rows import pack_rows

# Row 0: <s> 9 B i i </s> | <s> B i i 9 B i i </s>      row 1: <s> 9 9 </s>, padded
ROWS = [[[9, "draw"], ["image", 9, "draw"]], [[9, 9]]]


def test_a_token_sees_its_documents_images_from_their_first_visual_token_on() -> None:
    visible = token_visible(pack_rows(ROWS))
    first = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (0, 1)]
    second = [(1, 1), (1, 1), (1, 2), (1, 2), (1, 2), (1, 2), (1, 3), (1, 3), (1, 3)]
    assert visible[0].tolist() == [list(pair) for pair in first + second]


def test_padding_and_rows_without_images_see_nothing() -> None:
    visible = token_visible(pack_rows(ROWS))
    assert (visible[1, :, 0] == visible[1, :, 1]).all()
    assert (visible[1, 4:] == 0).all()


def test_attention_is_causal_within_a_document_and_never_leaves_it() -> None:
    mask = attention_mask(pack_rows(ROWS))[0, 0]
    assert mask.shape == (15, 15)
    assert not mask[6:, :6].any(), "the second document attends to the first"
    assert torch.equal(mask[:6, :6], torch.ones(6, 6, dtype=torch.bool).tril())
    assert mask.diagonal().all(), "a token without anything to attend to makes the softmax undefined"


@pytest.mark.parametrize(
    ("context_images", "expected"),
    [("all", [[0, 1], [0, 2], [2, 2]]), ("previous", [[0, 1], [1, 2], [2, 2]])],
)
def test_a_drawn_image_sees_the_images_before_it(context_images: str, expected: list[list[int]]) -> None:
    batch = pack_rows([[["image", 9, "draw", 9, "draw"], [9, "draw"]]])
    batch = type(batch)(**{**vars(batch), "drawn": torch.tensor([1, 2, 3])})
    expected = [[first, last] for first, last in expected]
    expected[2] = [3, 3]  # the second document's first image sees none
    assert image_visible(batch, context_images).tolist() == expected


def test_context_runs_from_begin_of_image_back_to_the_start_of_the_document() -> None:
    batch = pack_rows(ROWS)
    hidden = torch.arange(2 * 15, dtype=torch.float32).view(2, 15, 1)
    context, exists = gather_context(hidden, batch)
    assert exists.sum(1).tolist() == [3, 6]
    assert context[0, :3, 0].tolist() == [2, 1, 0]
    assert context[1, :, 0].tolist() == [11, 10, 9, 8, 7, 6]


def test_no_drawn_image_has_no_context() -> None:
    batch = pack_rows([[[9, 9]]])
    context, exists = gather_context(torch.zeros(1, 4, 3), batch)
    assert context.shape == (0, 0, 3)
    assert exists.shape == (0, 0)
