import json
from pathlib import Path

import pytest

from trainer.json_files import write_json


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
