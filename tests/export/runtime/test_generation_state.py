"""Documents of an exported model that join others under way, and leave them."""

from pathlib import Path

import pytest
import torch

from export.runtime import Session
from export.runtime.generation_state import ExportedGenerationState
from export.runtime.memory import MOST_SIZES
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
        assert len(memory._caches) <= MOST_SIZES
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


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
def test_images_join_others_that_are_being_drawn(
    session: Session, unchanged_model: MMInterleaved, images: list[torch.Tensor]
) -> None:
    """At other steps, with other numbers of steps, schedulers and guidance; each as PyTorch draws it alone."""
    boi = session.config.begin_of_image_id
    hows = [
        Denoising(num_inference_steps=4),
        Denoising(num_inference_steps=5, scheduler="dpm", guidance_scale=2.0),
        Denoising(num_inference_steps=3, scheduler="ddpm", guidance_scale=1.0),
        Denoising(num_inference_steps=3, scheduler="ddpm", guidance_scale=2.0, image_guidance_scale=1.5),
    ]
    prompts: list[list[Piece]] = [
        [[1, 5 + number], *(piece for image in images[:number] for piece in ([boi], image)), [boi]]
        for number in range(4)
    ]
    states: list[ExportedGenerationState] = []
    expected = []
    for number, prompt in enumerate(prompts):
        theirs = unchanged_model.begin_generation(1)
        theirs.read([prompt])
        *_, last = theirs.draw([0], [number], hows[number])
        expected.append(last.latents[0])
        states.append(session.begin_generation(1))
        states[-1].read([prompt])
    before = [state.num_bytes for state in states]
    drawings, who, found = states[0].begin_drawing([0], [0], hows[0]), [0], {}
    for turn in range(1, 10):
        drawings.step()
        assert drawings.latents.shape == drawings.estimate.shape
        left = zip(drawings.done, drawings.num_steps, strict=True)
        ready = [place for place, (done, most) in enumerate(left) if done == most]
        for place in ready:
            found[who[place]] = drawings.latents[place]
        drawings.leave(ready)
        who = [one for place, one in enumerate(who) if place not in ready]
        if turn < 4:
            guest = states[turn].begin_drawing([0], [turn], hows[turn])
            assert drawings.can_join(guest)
            drawings.join(guest)
            who.append(turn)
        if not who:
            break
    assert drawings.done == []
    assert sorted(found) == [0, 1, 2, 3]
    for number, latents in found.items():
        scale = float(expected[number].abs().max())
        torch.testing.assert_close(latents, expected[number], rtol=1e-3, atol=1e-3 * scale)
    assert [state.num_bytes for state in states] == before, "no other document's images came into a state's memory"
    for state in states:
        state.read([[[7]]])


@torch.no_grad()
def test_two_drawings_of_one_memory_do_not_mix(session: Session) -> None:
    state = session.begin_generation(2)
    state.read([[[1, 5, session.config.begin_of_image_id]], [[1, 6, session.config.begin_of_image_id]]])
    expected = []
    for row in (0, 1):
        *_, last = state.draw([row], [row], LAST_STEP)
        expected.append(last.latents)
    first, second = (state.begin_drawing([row], [row], LAST_STEP) for row in (0, 1))
    for _ in range(2):
        first.step()
        second.step()
    for drawings, latents in zip((first, second), expected, strict=True):
        torch.testing.assert_close(drawings.latents, latents, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_was_read_last_is_forgotten(
    session: Session, unchanged_model: MMInterleaved, images: list[torch.Tensor]
) -> None:
    """One document of two is cropped and reads something else, as if it had never read the first."""
    boi = session.config.begin_of_image_id
    first, second, third = images
    state, expected = session.begin_generation(2), unchanged_model.begin_generation(1)
    prompt: list[Piece] = [[1, 9, boi], first, [10]]
    state.read([prompt, [[1, 5]]])
    length = state.lengths[0]
    state.read([[[11, boi], second, [12, 13]], [[boi], third]])
    state.crop(0, length - 1, 1)
    assert state.logits is not None
    assert state.logits[0].isnan().all(), "they would be those of what is forgotten"
    turn: list[Piece] = [[10, 20, boi], third, [21]]
    state.read([turn, []])
    expected.read([[*prompt[:2], *turn]])
    check(state, 0, expected)
    state.crop(0, length - 1, 1)
    state.read([turn[:1], [[6]]])  # the row that is cropped stays beside one that reads on
    state.read([turn[1:], []])
    check(state, 0, expected)
