from pathlib import Path
from typing import Any

from export.store.rebuild_command import how_to_rebuild


def test_the_command_names_the_model_only_where_it_is(tmp_path: Path) -> None:
    there: dict[str, Any] = {"how": {"precision": "float32", "images": []}, "model_dir": str(tmp_path)}
    there |= {"components": {}, "left_to_pytorch": [], "not_exported": []}
    command = f"python -m export.trt {tmp_path} --out {tmp_path} --stage validate --precision float32"
    assert how_to_rebuild(tmp_path, there, stage="validate") == f"Make it again: {command}"
    elsewhere = {**there, "model_dir": "/no/such/model"}
    told = how_to_rebuild(tmp_path, elsewhere, stage="validate")
    assert told.startswith("Make it again, with the model's place instead of /no/such/model, which is not here: python")
