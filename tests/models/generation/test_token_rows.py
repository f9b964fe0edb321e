import torch

from models.generation.token_rows import LEAST_ROOM, Places, TokenCache, TokenRows

CPU = torch.device("cpu")


def tokens(*rows: list[float]) -> torch.Tensor:
    """[B, 1, T, 1]"""
    return torch.tensor(rows)[:, None, :, None]


def test_each_row_goes_on_behind_its_own_tokens() -> None:
    rows = TokenRows()
    rows.write(tokens([1, 2, 3], [4, 5, 6]), Places([0, 0], 3, CPU))
    kept = rows.write(tokens([7, 8], [9, 10]), Places([3, 1], 2, CPU))  # of the second row, one was padding twice over
    assert kept.shape == (2, 1, 5, 1)
    assert rows.of(0, 5).flatten().tolist() == [1, 2, 3, 7, 8]
    assert rows.of(1, 3).flatten().tolist() == [4, 9, 10]


def test_a_token_attends_to_itself_and_to_those_before_it() -> None:
    places = Places([2, 0], 2, CPU)
    assert places.common is None
    assert places.mask[:, 0].int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 0, 0]]]
    assert Places([3, 3], 1, CPU).common == 3


def test_room_grows_in_steps_and_what_is_kept_stays() -> None:
    rows, addresses = TokenRows(), set()
    for length in range(10 * LEAST_ROOM):
        kept = rows.write(tokens([float(length)]), Places([length], 1, CPU))
        addresses.add(kept.data_ptr())
    assert kept.flatten().tolist() == list(range(10 * LEAST_ROOM))
    assert len(addresses) < 12
    chosen = rows.select(torch.tensor([0, 0]), 4)
    assert (chosen.of(1, 4).flatten().tolist(), chosen.num_bytes) == ([0, 1, 2, 3], 2 * 4 * 4)


def test_rows_join() -> None:
    parts = [TokenRows(), TokenRows(), TokenRows()]
    parts[0].write(tokens([1, 2]), Places([0], 2, CPU))
    parts[2].write(tokens([3], [4]), Places([0, 0], 1, CPU))
    joined = TokenRows.joined(parts, 2)
    joined.write(tokens([5], [6], [7]), Places([2, 1, 1], 1, CPU))
    assert [joined.of(row, length).flatten().tolist() for row, length in enumerate([3, 2, 2])] == [
        [1, 2, 5],
        [3, 6],
        [4, 7],
    ]


def test_what_was_begun_in_inference_mode_goes_on_without_it() -> None:
    rows = TokenRows()
    with torch.inference_mode():
        rows.write(tokens([1.0]), Places([0], 1, CPU))
        rows = TokenRows.joined([rows.select(torch.tensor([0]), 1)], 1)
    rows.write(tokens([2.0]), Places([1], 1, CPU))
    assert rows.of(0, 2).flatten().tolist() == [1, 2]


def test_a_cache_keeps_every_layer() -> None:
    cache = TokenCache()
    places = cache.begin([0], 2, CPU)
    for layer in range(2):
        keys, values = cache.update(tokens([1.0, 2.0]) + layer, tokens([3.0, 4.0]) + layer, layer)
        assert (keys.flatten().tolist(), values.flatten().tolist()) == ([1 + layer, 2 + layer], [3 + layer, 4 + layer])
    cache.hidden.write(torch.ones(1, 2, 3), places)
    assert cache.get_seq_length() == 0
    other = TokenCache.joined([cache, cache.select(torch.tensor([0]), 2), TokenCache()], 2)
    other.begin([2, 2], 1, CPU)
    assert other.get_seq_length() == 2
    keys, _ = other.update(tokens([9.0], [10.0]), tokens([0.0], [0.0]), 1)
    assert keys.flatten().tolist() == [2, 3, 9, 2, 3, 10]
    assert cache.select(torch.tensor([0]), 2).num_bytes == 4 * (2 * 3 + 4 * 2)
