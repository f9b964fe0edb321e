"""Documents."""

from __future__ import annotations

import numpy as np

from trainer.data.document import Document, Image, Text, is_drawn, prompt_of

IMAGE = np.zeros((64, 64, 3), dtype=np.uint8)


def test_the_first_segment_and_images_to_read_are_not_drawn():
    segments = (Image(IMAGE), Text("a"), Image(IMAGE), Image(IMAGE, draw=False))
    document = Document(segments, "made", "made/1", 2, {})
    assert [is_drawn(document, index) for index in range(4)] == [False, False, True, False]
    assert prompt_of(document) == list(segments[:2])
