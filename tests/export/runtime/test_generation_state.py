"""Documents of an exported model that join others under way, and leave them."""

from pathlib import Path

import pytest
import torch

from export.runtime import Session
from export.runtime.generation_state import ExportedGenerationState
from export.runtime.memory import MOST_CACHES
from models import MMInterleaved
from models.denoising_options import Denoising
from models.generation.state import GenerationState, Piece
from models.images.image_file import open_image

LAST_STEP = Denoising(num_inference_steps=2)


@pytest.fixture
def images(unchanged_model: MMInterleaved, model_dir: Path) -> list[torch.Tensor]:
    processor = unchanged_model.processor
    assert processor is not None
    return [processor.encode_image(open_image(file)) for file in sorted((model_dir / "samples").glob("*.png"))]


def check(state: GenerationState, row: int, expected: GenerationState) -> None:
    assert state.lengths[row] == expected.lengths[0]
    assert state.logits is not None
    assert expected.logits is not None
    torch.testing.assert_close(state.logits[row], expected.logits[0], rtol=1e-4, atol=1e-4)
    *_, drawn = state.draw([row], [4], LAST_STEP)
    *_, alone = expected.draw([0], [4], LAST_STEP)
    torch.testing.assert_close(drawn.latents, alone.latents, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_documents_join_others_under_way_and_leave_them(
    session: Session, unchanged_model: MMInterleaved, images: list[torch.Tensor]
) -> None:
    """What each of them then holds is what the PyTorch model holds that has read it alone."""
    boi = session.config.begin_of_image_id
    first, second, third = images
    prompts: list[list[Piece]] = [[[1, 9, 10, boi], first, [11]], [[1]], [[1, 5, boi], second, [boi], third]]
    turns: list[list[Piece]] = [[[12], [boi], second, [8]], [[13]], [[15]]]
    alone = [unchanged_model.begin_generation(1) for _ in prompts]
    for one, prompt in zip(alone, prompts, strict=True):
        for pieces in (prompt, *turns):
            one.read([pieces])

    def prefilled(document: int) -> ExportedGenerationState:
        state = session.begin_generation(1)
        state.read([prompts[document]])
        return state

    state = session.begin_generation(0)
    state.join(prefilled(0))
    state.read([turns[0]])
    guest = prefilled(1)
    assert state.can_join(guest)
    state.join(guest)
    state.read([turns[1], turns[0]])
    state.join(prefilled(2))
    assert len(set(state.documents)) == 3
    state.read([turns[2], [], turns[0]])
    check(state, 0, alone[0])
    left = state.split([2])
    assert left.num_bytes < state.num_bytes
    state.select([1])
    left.read([turns[1]])
    state.join(left)  # comes back
    state.read([turns[1], turns[2]])
    state.read([turns[2], []])
    check(state, 0, alone[1])
    check(state, 1, alone[2])


@torch.no_grad()
def test_memory_is_bounded_by_what_is_read_at_once(session: Session, images: list[torch.Tensor]) -> None:
    """Batches of all sizes, one after another, in the memory that is used again and again."""
    boi, num_free = session.config.begin_of_image_id, max(len(session._free), 1)
    sizes = []
    for _ in range(3):
        for num_rows in (1, 5, 2, 7, 3, 6, 4, 8):
            state = session.begin_generation(num_rows)
            state.read([[[1] * (20 * num_rows), [boi], images[row % 3]] for row in range(num_rows)])
            state.read([[[7]] for _ in range(num_rows)])
            state.select(range(0, num_rows, 2))
            del state
        memory = session._free[-1]
        assert len(memory._caches) <= MOST_CACHES
        sizes.append(sum(cache.num_bytes for cache in memory._caches.values()) + sum(p.num_bytes for p in memory.pools))
    assert sizes == [sizes[0]] * 3
    assert len(session._free) == num_free


@torch.no_grad()
def test_what_is_kept_does_not_grow_with_documents_that_have_left(session: Session, images: list[torch.Tensor]) -> None:
    boi = session.config.begin_of_image_id
    state = session.begin_generation(1)
    state.read([[[1, boi], images[0]]])
    sizes = []
    for _ in range(4):
        guest = session.begin_generation(1)
        guest.read([[[1, 5, boi], images[1], [boi], images[0]]])
        state.join(guest)
        del guest
        state.read([[], [[9]]])
        state.select([0])
        sizes.append((state.num_bytes, state.copied([0]).num_bytes))
    assert sizes == [sizes[0]] * 4
    assert sizes[0][1] < sizes[0][0], "a copy has room for what it holds"
