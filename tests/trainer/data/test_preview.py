"""The contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from trainer.data import preview
from trainer.data.document import Image
from trainer.data.emoji.tasks import documents


@pytest.mark.parametrize("task", ["story", "read"])
def test_a_sheet_shows_the_pictures(task, tmp_path, monkeypatch):
    out = tmp_path / "sheet.png"
    arguments = ["preview", "--task", task, "--out", str(out), "--count", "2", "--columns", "1", "--zoom", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    preview.main()
    with PILImage.open(out) as picture:
        sheet = np.asarray(picture)
    first = next(part for part in documents(task, "val", 0, 1)[0].segments if isinstance(part, Image))
    margin = preview.MARGIN_PX
    shown = sheet[margin : margin + 128 : 2, margin : margin + 128 : 2]
    np.testing.assert_array_equal(shown, first.pixels)


def test_pictures_at_the_drawn_size_are_coarse():
    document = documents("draw", "val", 0, 1)[0]
    sheet = np.asarray(preview.contact_sheet([document], zoom=1, drawn_px=16, columns=1))
    shown = sheet[preview.MARGIN_PX :][:64, preview.MARGIN_PX :][:, :64]
    np.testing.assert_array_equal(shown, shown[::4, ::4].repeat(4, 0).repeat(4, 1))
    assert shown.std() > 10
