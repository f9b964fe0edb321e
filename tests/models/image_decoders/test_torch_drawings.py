"""Images that join others that are being drawn, and leave them."""

import pytest
import torch

from models import MMInterleaved
from models.denoising_options import Denoising
from models.generation.torch_state import TorchGenerationState
from models.image_decoders.torch_drawings import TorchDrawings

BOI = 3
HOW = [
    Denoising(num_inference_steps=5),
    Denoising(num_inference_steps=7, scheduler="dpm", guidance_scale=2.0),
    Denoising(num_inference_steps=6, scheduler="ddpm", guidance_scale=1.0),
    Denoising(num_inference_steps=4, scheduler="ddpm", guidance_scale=2.0, image_guidance_scale=1.5),
]


def begun(model: MMInterleaved, number: int) -> TorchDrawings:
    """Two drawings of one document with some images each, in its own way."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = TorchGenerationState(model, 2)
    pieces = [piece for image in images[:number] for piece in ([BOI], image)]
    state.read([[[1, 5 + number], *pieces, [BOI]], [[1, 9], *pieces, [7, BOI]]])
    return state.begin_drawing([0, 1], [number, 10 + number], HOW[number])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
def test_what_is_drawn_does_not_depend_on_who_joins_and_leaves(model: MMInterleaved) -> None:
    expected = []
    for number, how in enumerate(HOW):
        alone = begun(model, number)
        for _ in range(how.num_inference_steps):
            alone.step()
        expected.append(alone.latents)

    found: dict[tuple[int, int], torch.Tensor] = {}
    drawings, who = begun(model, 0), [(0, 0), (0, 1)]
    for turn in range(1, 20):
        drawings.step()
        left = zip(drawings.done, drawings.num_steps, strict=True)
        ready = [place for place, (done, most) in enumerate(left) if done == most]
        if turn == 3:
            ready.append(who.index((1, 0)))  # is cancelled, and its twin goes on
        for place in ready:
            found[who[place]] = drawings.latents[place]
        drawings.leave(ready)
        who = [one for place, one in enumerate(who) if place not in ready]
        if turn < len(HOW):
            guest = begun(model, turn)
            if turn == 3:
                guest.step()
            assert drawings.can_join(guest)
            drawings.join(guest)
            who += [(turn, 0), (turn, 1)]
        if not who:
            break
    assert (turn, drawings.done) == (8, [])
    drawings.step()  # nothing to do
    assert (found.pop((1, 0)) - expected[1][0]).abs().max() > 1e-2
    assert len(found) == 7
    for (number, image), latents in found.items():
        torch.testing.assert_close(latents, expected[number][image], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_estimates_are_those_of_each_image(model: MMInterleaved) -> None:
    drawings, alone = begun(model, 0), begun(model, 3)
    drawings.step()
    drawings.join(begun(model, 3))
    drawings.step()
    alone.step()
    assert drawings.done == [2, 2, 1, 1]
    assert drawings.num_steps == [5, 5, 4, 4]
    torch.testing.assert_close(drawings.estimate[2:], alone.estimate, rtol=1e-3, atol=1e-4)


def test_more_steps_than_the_training_had_are_refused_before_the_first(model: MMInterleaved) -> None:
    state = TorchGenerationState(model)
    state.read([[[1, BOI]]])
    with pytest.raises(ValueError, match="num_inference_steps is 2000; this model was trained with 1000 steps"):
        state.begin_drawing([0], [0], Denoising(num_inference_steps=2000))
