"""The contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PILImage

from trainer.data import preview
from trainer.data.document import Image
from trainer.data.emoji.tasks import documents


@pytest.mark.parametrize("task", ["story", "read"])
def test_a_sheet_shows_the_images(task, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert preview.main(["--task", task, "--out", str(out), "--count", "2", "--columns", "1", "--zoom", "2"]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    with PILImage.open(out) as image:
        sheet = np.asarray(image)
    first = next(part for part in documents(task, "val", 0, 1)[0].segments if isinstance(part, Image))
    margin = preview.MARGIN_PX
    shown = sheet[margin : margin + 128 : 2, margin : margin + 128 : 2]
    np.testing.assert_array_equal(shown, first.pixels)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--out", "{tmp_path}"], "expected a file named *.png"),
        (["--out", "{tmp_path}/notes.png"], "which is a directory; expected a file to write"),
        (["--out", "/proc/none/sheet.png"], "--out is /proc/none/sheet.png, which cannot be written: No such file"),
        (["--out", "{tmp_path}/sheet.png", "--count", "0"], "--count is 0; expected 1 or more"),
    ],
)
def test_wrong_use_is_explained(tmp_path, capsys, options, sentence):
    (tmp_path / "notes.png").mkdir()
    assert preview.main(["--task", "read", *(text.format(tmp_path=tmp_path) for text in options)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m trainer.data.preview: ")
    assert sentence in said


def test_help_says_what_every_option_means(capsys):
    with pytest.raises(SystemExit):
        preview.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: python -m trainer.data.preview ")
    assert "--count COUNT how many documents; default: 12" in said
    assert "--zoom ZOOM how many times enlarged; default: 2" in said


def test_images_at_the_drawn_size_are_coarse():
    document = documents("draw", "val", 0, 1)[0]
    sheet = np.asarray(preview.contact_sheet([document], zoom=1, drawn_image_side=16, columns=1))
    shown = sheet[preview.MARGIN_PX :][:64, preview.MARGIN_PX :][:, :64]
    np.testing.assert_array_equal(shown, shown[::4, ::4].repeat(4, 0).repeat(4, 1))
    assert shown.std() > 10
