import base64
import io

import numpy as np
from PIL import Image as PILImage

from trainer.demo.images import img, inline_png


def test_a_image_comes_back_from_the_page() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    for image in (pixels, PILImage.fromarray(pixels)):
        kind, _, data = inline_png(image).partition(",")
        assert kind == "data:image/png;base64"
        with PILImage.open(io.BytesIO(base64.b64decode(data))) as read:
            np.testing.assert_array_equal(np.asarray(read), pixels)


def test_its_description_is_text() -> None:
    assert img(np.zeros((1, 1, 3), dtype=np.uint8), 'a "quoted" <word>').endswith(
        'alt="a &quot;quoted&quot; &lt;word&gt;">'
    )
