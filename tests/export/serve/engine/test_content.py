import torch

from export.serve.engine.content import common_length, items_of, num_images, split_pieces, whole_images

IMAGE, OTHER = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)


def test_a_document_is_its_tokens_and_the_digests_of_its_images() -> None:
    items = items_of([[1, 3], IMAGE, [4], IMAGE.clone(), [3], OTHER], 2)
    assert len(items) == 1 + 1 + 2 + 1 + 2 + 1 + 2
    assert items[2] == items[3] == items[5]
    assert items[2] != items[-1]
    assert num_images(items) == 3


def test_a_common_beginning_ends_before_an_image_or_behind_it() -> None:
    one, other = items_of([[1, 3], IMAGE, [4, 5]], 3), items_of([[1, 3], OTHER, [4, 5]], 3)
    assert common_length(one, other) == 2
    assert common_length(one, one[:6]) == 6
    assert [whole_images(one, length) for length in range(8)] == [0, 1, 2, 2, 2, 5, 6, 7]
    assert common_length(one, [*one, 9]) == len(one)
    assert common_length(one, one[:4]) == 2


def test_pieces_are_split_at_tokens_but_not_in_an_image() -> None:
    pieces = [[1, 2, 3], IMAGE, [4, 5]]
    assert split_pieces(pieces, 2, 3) == ([[1, 2]], [[3], IMAGE, [4, 5]])
    assert split_pieces(pieces, 5, 3) == ([[1, 2, 3]], [IMAGE, [4, 5]])
    assert split_pieces(pieces, 7, 3) == ([[1, 2, 3], IMAGE, [4]], [[5]])
    assert split_pieces(pieces, 8, 3) == (pieces, [])
    assert split_pieces(pieces, 0, 3) == ([], pieces)
