import pickle

import pytest
from PIL import Image

from models.generation.generated import Generated

IMAGE = Image.new("RGB", (8, 8), "red")


def written() -> Generated:
    result = Generated(["a prompt"], num_cut=1)
    for piece in ("on", "e ", IMAGE, "(100,200)", "(300,400)"):
        result.add(piece)
    return result


def test_adjacent_text_is_one_segment() -> None:
    result = written()
    assert result == ["one ", IMAGE, "(100,200)(300,400)"]
    assert result.text == "one (100,200)(300,400)"
    assert result.images == [IMAGE]
    assert result.boxes == [(0.1, 0.2, 0.3, 0.4)]


def test_it_survives_another_process() -> None:
    copy = pickle.loads(pickle.dumps(written()))
    assert copy.text == written().text
    assert (copy.prompt, copy.num_cut, copy.finish_reason) == (["a prompt"], 1, "end")


def test_it_shows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    result = written()
    result.show()
    assert shown == [result.to_image()]
    assert "a prompt" in result.to_html()
    assert result._repr_html_() == result.to_html()
