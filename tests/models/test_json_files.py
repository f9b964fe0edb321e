import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import MMInterleavedConfig
from models.json_files import read_json, write_json
from models.released.base_weights import load_base
from models.released.conversion import Conversion
from models.tensor_files import weight_files


def test_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"name": ["µ", 1.5, null]}', encoding="utf-8")
    assert read_json(tmp_path / "one.json") == {"name": ["µ", 1.5, None]}


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", MMInterleavedConfig.load),
        ("base.json", load_base),
        ("conversion.json", Conversion.load),
        ("model.safetensors.index.json", lambda file: weight_files(file.parent)),
    ],
)
@pytest.mark.parametrize("content", [b'{"weight_map": {', b"\xff\xfe"], ids=["cut off", "no text"])
def test_whoever_reads_a_damaged_file_names_it(
    name: str, read: Callable[[Path], Any], content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*\)\. Fetch or make it again"):
        read(tmp_path / name)


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_json(file, {"colour": "grün", "scores": [1, 2]})
    before = file.read_text(encoding="utf-8")
    assert json.loads(before) == {"colour": "grün", "scores": [1, 2]}
    assert '\n "colour": "grün",\n' in before
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(file, {"scores": [1], "answer": object()})
    assert file.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [file]
