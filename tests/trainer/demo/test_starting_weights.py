from pathlib import Path

from trainer.demo.starting_weights import training_facts


def test_how_the_weights_were_made_is_read_from_beside_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert training_facts(None) is training_facts(tmp_path) is None
    (tmp_path / "training.json").write_text('{"command": "python -m trainer.pretrain toy_scratch"}')
    assert training_facts(tmp_path) == {"command": "python -m trainer.pretrain toy_scratch"}
