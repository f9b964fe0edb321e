import json
from dataclasses import asdict, replace
from pathlib import Path

from trainer.demo.starting_weights import recorded_without_mmfs, training_facts
from trainer.evaluation.scores import Score
from trainer.evaluation.settings import Settings


def test_how_the_weights_were_made_is_read_from_beside_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert training_facts(None) is training_facts(tmp_path) is None
    (tmp_path / "training.json").write_text('{"command": "python -m trainer.pretrain toy_scratch"}')
    assert training_facts(tmp_path) == {"command": "python -m trainer.pretrain toy_scratch"}


def test_answers_without_mmfs_are_those_to_the_same_documents(tmp_path: Path) -> None:
    asked = Settings(num_concepts=20, num_sprites=6)
    score = {"mean": 0.5, "standard_error": 0.1, "chance": None, "ceiling": 1.0, "num_documents": 2}
    task = {"scores": {"number": score}, "answers": {"emoji/read/val/0": "top: 7"}}
    content = {"settings": asdict(asked), "training": {"command": "train it"}, "tasks": {"read": task}}
    (tmp_path / "without_mmfs.json").write_text(json.dumps(content))
    recorded = recorded_without_mmfs(tmp_path, asked)
    assert recorded is not None
    assert recorded.answers == {"emoji/read/val/0": "top: 7"}
    assert recorded.scores["read"]["number"] == Score(**score)
    for other in ({"num_concepts": 21}, {"num_sprites": 5}, {"data_seed": 1}):
        recorded = recorded_without_mmfs(tmp_path, replace(asked, **other))
        assert recorded is not None
        assert recorded.answers == {}, "the key stands for another document there"
    assert recorded_without_mmfs(None, asked) is recorded_without_mmfs(tmp_path / "none", asked) is None


def test_what_was_recorded_before_answers_were_kept_has_none(tmp_path: Path) -> None:
    content = {"settings": asdict(Settings()), "training": {}, "tasks": {"read": {"scores": {}}}}
    (tmp_path / "without_mmfs.json").write_text(json.dumps(content))
    recorded = recorded_without_mmfs(tmp_path, Settings())
    assert recorded is not None
    assert recorded.answers == {}
