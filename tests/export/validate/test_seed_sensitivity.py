import pytest
from PIL import ImageChops

from export.validate.seed_sensitivity import own_psnr_db

ASKED = {"mode": "image", "num_inference_steps": 2, "seed": 3}


@pytest.mark.parametrize(("step_error", "least", "most"), [(1e-7, 60.0, 100.0), (0.5, 0.0, 40.0)])
def test_images_move_as_far_as_their_steps_are_off(model, step_error, least, most):
    expected = model.generate(["draw"], **ASKED)
    worst = own_psnr_db(model, ["draw"], ASKED, expected, step_error)
    assert least < worst <= most
    again = model.generate(["draw"], **ASKED)
    steps_of_8_bits = ImageChops.difference(again.images[0], expected.images[0]).getextrema()
    assert max(most for _, most in steps_of_8_bits) <= 1, "nothing stays on the model"


def test_other_words_are_no_measure(model):
    assert own_psnr_db(model, ["draw"], ASKED, ["words"], 0.5) is None


def test_nothing_stays_on_the_model_if_drawing_fails(model):
    with pytest.raises(ValueError, match="num_inference_steps"):
        own_psnr_db(model, ["draw"], {**ASKED, "num_inference_steps": 0}, [], 0.5)
    assert not model.image_decoder.unet._forward_hooks
