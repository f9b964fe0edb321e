from dataclasses import replace
from pathlib import Path

from export.store.rebuild_command import how_to_rebuild
from export_manifests import a_manifest


def test_the_command_names_the_model_only_where_it_is(tmp_path: Path) -> None:
    there = a_manifest({}, model_dir=str(tmp_path))
    options = "--stage validate --precision float32 --llm-weights same --kv-cache trt_split"
    command = f"python -m export.trt {tmp_path} --out {tmp_path} {options}"
    assert how_to_rebuild(tmp_path, there, stage="validate") == f"Make it again: {command}"
    elsewhere = replace(there, model_dir="/no/such/model")
    told = how_to_rebuild(tmp_path, elsewhere, stage="validate")
    assert told.startswith("Make it again, with the model's place instead of /no/such/model, which is not here: python")
