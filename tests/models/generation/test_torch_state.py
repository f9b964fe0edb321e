import pytest
import torch

from models import MMInterleaved
from models.denoising_options import Denoising
from models.generation.state import ContextFull
from models.generation.torch_state import TorchGenerationState
from rows import BOI, pack_rows

LAST_STEP = Denoising(num_inference_steps=2)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_reading_in_pieces_equals_the_training_forward(model: MMInterleaved) -> None:
    """Prefill piece by piece, with caches, gives the states of one packed row."""
    batch = pack_rows([[[9, "image", 10, 11, "image", 12]]])
    state = TorchGenerationState(model)
    for pieces in ([[1, 9, BOI], batch.pixel_values[0]], [[10, 11]], [[BOI]], [batch.pixel_values[1], [12]]):
        state.read([pieces])
    hidden: list[torch.Tensor] = []
    hook = model.language_model.register_forward_hook(lambda _module, _args, out: hidden.append(out))
    model(batch)
    hook.remove()
    torch.testing.assert_close(state.states(0), hidden[0][0, :-1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_documents_of_a_batch_read_as_they_would_alone(model: MMInterleaved) -> None:
    """Of other lengths, with other numbers of images, some waiting while others read."""
    first, second, third = images(3)
    turns = [
        ([[1, 9, 10, BOI], first, [11]], [[1]], [[1, 5, 6]]),
        ([], [[BOI]], [[7]]),
        ([[12]], [second, [8, BOI]], []),
        ([[BOI], first], [third], [[9]]),
    ]
    together = TorchGenerationState(model, 3)
    for turn in turns:
        together.read(turn)
    for row in range(3):
        alone = TorchGenerationState(model)
        for turn in turns:
            if turn[row]:
                alone.read([turn[row]])
        assert alone.lengths[0] == together.lengths[row]
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.states(row), alone.states(0), rtol=1e-4, atol=1e-5)
        *_, drawn = together.draw([row], [4], LAST_STEP)
        *_, expected = alone.draw([0], [4], LAST_STEP)
        torch.testing.assert_close(drawn.latents, expected.latents, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_an_image_that_documents_share_is_encoded_once(model: MMInterleaved) -> None:
    first, second = images(2)
    turns = [[[1, 9, BOI], first, [11, BOI], second], [[1, BOI], second], [[1, BOI], second, [BOI], first]]
    encoded: list[int] = []
    hook = model.visual_tokenizer.register_forward_pre_hook(lambda _module, inputs: encoded.append(len(inputs[0])))
    shared, apart = TorchGenerationState(model, 3), TorchGenerationState(model, 3)
    shared.read(turns)
    apart.read([[piece.clone() if isinstance(piece, torch.Tensor) else piece for piece in row] for row in turns])
    hook.remove()
    assert encoded == [2, 5]
    torch.testing.assert_close(shared.logits, apart.logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_are_drawn_together_as_alone(model: MMInterleaved) -> None:
    first, second, _ = images(3)
    state = TorchGenerationState(model, 3)
    state.read([[[1, BOI]], [[1, 9, 10, BOI], first, [BOI]], [[1, BOI], second, [BOI]]])
    *_, together = state.draw([2, 1], [5, 6], LAST_STEP)
    for place, (row, seed) in enumerate([(2, 5), (1, 6)]):
        *_, alone = state.draw([row], [seed], LAST_STEP)
        torch.testing.assert_close(together.latents[place], alone.latents[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_rows_can_be_dropped_and_doubled(model: MMInterleaved) -> None:
    first, second, _ = images(3)
    state = TorchGenerationState(model, 3)
    state.read([[[1, 9]], [[1, BOI], first], [[1, 5, 6, BOI], second]])
    copy = state.copied([2, 1, 2])
    assert copy.documents == [2, 1, 2]
    copy.read([[[7]], [[8]], [[9, 10]]])
    state.select([2])
    state.read([[[9, 10]]])
    torch.testing.assert_close(copy.logits[2], state.logits[0], rtol=1e-4, atol=1e-5)
    assert (copy.logits[0] - state.logits[0]).abs().max() > 1e-4
    state.read([[[BOI], first]])  # the original still reads images
    assert state.lengths == [4 + 2 + 2 + 1 + 2]


@torch.no_grad()
def test_documents_join_others_under_way_and_leave_them(model: MMInterleaved) -> None:
    """At different times, in other orders; each goes on as if it were alone."""
    first, second, third = images(3)
    prompts = [[[1, 9, 10, BOI], first, [11]], [[1]], [[1, 5, BOI], second, [BOI], third], [[1, 7, BOI], first]]
    turns = [[[12], [BOI], second, [8]], [[13, 14]], [[15]]]
    alone = []
    for prompt in prompts:
        alone.append(TorchGenerationState(model))
        for pieces in (prompt, *([piece] for piece in turns[0]), *turns[1:]):
            alone[-1].read([pieces])

    def prefilled(document: int) -> TorchGenerationState:
        state = TorchGenerationState(model)
        state.read([prompts[document]])
        return state

    def check(state: TorchGenerationState, row: int, document: int) -> None:
        assert state.lengths[row] == alone[document].lengths[0]
        torch.testing.assert_close(state.logits[row], alone[document].logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.states(row), alone[document].states(0), rtol=1e-4, atol=1e-5)
        *_, drawn = state.draw([row], [4], LAST_STEP)
        *_, expected = alone[document].draw([0], [4], LAST_STEP)
        torch.testing.assert_close(drawn.latents, expected.latents, rtol=1e-3, atol=1e-4)

    state = prefilled(0)
    state.read([turns[0]])
    state.join(prefilled(1))
    state.read([turns[1], turns[0]])
    both = prefilled(2)
    both.join(prefilled(3))
    state.join(both)
    assert len(set(state.documents)) == 4
    state.read([turns[2], [], turns[0], []])
    check(state, 0, 0)
    state.select([3, 1, 2])  # document 0 is done
    state.read([turns[0], turns[1], []])
    left = state.split([0, 2])
    assert state.lengths == [alone[1].lengths[0] - 1]
    left.read([turns[1], turns[1]])
    left.read([turns[2], turns[2]])
    check(left, 0, 3)
    check(left, 1, 2)
    state.join(left.split([1]))  # comes back
    state.read([turns[2], []])
    check(state, 0, 1)
    check(state, 1, 2)


@torch.no_grad()
def test_a_state_without_rows_can_be_joined(model: MMInterleaved) -> None:
    first, _, _ = images(3)
    state, other = TorchGenerationState(model, 0), TorchGenerationState(model)
    other.read([[[1, BOI], first]])
    expected = other.copied([0])
    state.join(other)
    left = state.split([0])
    assert (state.documents, state.lengths) == ([], [])
    state.join(left)
    for one in (state, expected):
        one.read([[[7]]])
    torch.testing.assert_close(state.logits, expected.logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_document_that_has_read_nothing_joins_none(model: MMInterleaved) -> None:
    state = TorchGenerationState(model, 2)
    state.read([[[1]], []])
    with pytest.raises(ValueError, match="Document 1 has read nothing; documents join each other once"):
        state.join(TorchGenerationState(model, 0))


@torch.no_grad()
def test_what_is_kept_does_not_grow_with_documents_that_have_left(model: MMInterleaved) -> None:
    first, second, _ = images(3)
    state = TorchGenerationState(model)
    state.read([[[1, BOI], first]])
    sizes = []
    for _ in range(4):
        guest = TorchGenerationState(model)
        guest.read([[[1, 5, BOI], second, [BOI], first]])
        list(guest.draw([0], [0], LAST_STEP))
        state.join(guest)
        for _ in range(3):
            state.read([[], [[9]]])  # the first document waits
        state.select([0])
        sizes.append(state.num_bytes)
    assert sizes == [sizes[0]] * 4
    assert state.copied([0]).num_bytes <= sizes[0]
    assert len(state.seen.values()[0]) == 1


@torch.no_grad()
def test_images_matter_and_so_does_their_order(model: MMInterleaved) -> None:
    logits = []
    for order in ((0, 1), (1, 0), (0, 0)):
        state = TorchGenerationState(model)
        one, other = (images(2)[i] for i in order)
        state.read([[[BOI], one, [BOI], other, [9]]])
        logits.append(state.logits[0])
    assert (logits[0] - logits[1]).abs().max() > 1e-5
    assert (logits[0] - logits[2]).abs().max() > 1e-5


def test_a_full_context_is_an_error_that_says_by_how_much(model: MMInterleaved) -> None:
    state = TorchGenerationState(model, 2)
    with pytest.raises(ContextFull, match=r"Document 1 has 515 tokens; the language model reads 512, 3 less"):
        state.read([[[1, 9]], [[1] * 512, [BOI], images(1)[0]]])
    assert state.lengths == [0, 0]


@torch.no_grad()
def test_what_was_read_last_is_forgotten(model: MMInterleaved) -> None:
    """One document of two is cropped and reads something else, as if it had never read the first; also when reading
    the first failed half-way."""
    first, second, third = images(3)
    state, expected = TorchGenerationState(model, 2), TorchGenerationState(model)
    state.read([[[1, 9, BOI], first, [10]], [[1, 5]]])
    state.read([[[11, BOI], second, [12, 13]], [[BOI], third]])
    state.crop(0, 3 + model.config.visual_tokenizer.num_visual_tokens, 1)
    assert state.logits[0].isnan().all(), "they would be those of what is forgotten"
    assert not state.logits[1].isnan().any()

    def out_of_memory(*_: object) -> None:
        raise MemoryError

    length = state.lengths[0]
    hook = model.language_model.decoder.layers[1].register_forward_hook(out_of_memory)
    with pytest.raises(MemoryError):
        state.read([[[BOI], second], []])
    hook.remove()
    state.crop(0, length, 1)
    turn = [[10, 20, BOI], third, [21]]
    state.read([turn, [[6]]])
    expected.read([[[1, 9, BOI], first, *turn]])
    assert state.lengths[0] == expected.lengths[0]
    torch.testing.assert_close(state.logits[0], expected.logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.states(0), expected.states(0), rtol=1e-4, atol=1e-5)
    *_, drawn = state.draw([0], [4], LAST_STEP)
    *_, alone = expected.draw([0], [4], LAST_STEP)
    torch.testing.assert_close(drawn.latents, alone.latents, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_document_that_became_short_takes_little_memory(model: MMInterleaved) -> None:
    state = TorchGenerationState(model)
    state.read([[[1, *[9] * 400]]])
    before = state.num_bytes
    state.crop(0, 1, 0)
    assert state.num_bytes < before / 4
    state.read([[[9, 9]]])
    expected = TorchGenerationState(model)
    expected.read([[[1, 9, 9]]])
    torch.testing.assert_close(state.logits, expected.logits, rtol=1e-4, atol=1e-5)
