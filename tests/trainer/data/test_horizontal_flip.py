import numpy as np

from trainer.data.document import Image, Text
from trainer.data.horizontal_flip import flipped, flipped_text


def test_boxes_and_words_change_sides():
    assert flipped_text(" (100,200)(300,400)") == " (700,200)(900,400)"
    assert flipped_text("Left of the leftmost RIGHT door, upright") == "Right of the rightmost LEFT door, upright"
    assert flipped_text("(000,000)(999,999)") == "(001,000)(999,999)"


def test_a_flipped_document_has_flipped_images():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    target = pixels[:1]
    image, text = flipped((Image(pixels, draw=False, target=target), Text(" the left one", loss=False)))
    np.testing.assert_array_equal(image.pixels, pixels[:, ::-1])
    np.testing.assert_array_equal(image.target, target[:, ::-1])
    assert (image.draw, text) == (False, Text(" the right one", loss=False))
