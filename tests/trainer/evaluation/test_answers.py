import numpy as np
from PIL import Image as PILImage

from models.generation.generated import Generated
from trainer.data.emoji.tasks import documents
from trainer.evaluation.answers import first_image, to_model


def test_images_are_averaged_down_as_in_training() -> None:
    [document] = documents("caption", "val", 0, 1)
    image, text = to_model(document.segments[:2], 32)
    assert text == document.segments[1].text
    assert isinstance(image, PILImage.Image)
    assert image.size == (32, 32)
    block = document.segments[0].pixels[:2, :2].astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(np.asarray(image)[0, 0], block, atol=0.5)


def test_a_model_that_only_writes_has_drawn_a_gray_image() -> None:
    written = Generated(["a story"])
    written.append("top left whale")
    image = first_image(written, (24, 32))
    assert (image.size, image.getcolors()) == ((32, 24), [(32 * 24, (128, 128, 128))])
    drawn = PILImage.new("RGB", (32, 24), "red")
    written += [drawn, PILImage.new("RGB", (32, 24), "blue")]
    assert first_image(written, (24, 32)) is drawn
