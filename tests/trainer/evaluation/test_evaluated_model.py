from pathlib import Path

from trainer.evaluation.evaluated_model import world_of
from trainer.recipes import DEFAULT_RECIPE, RECIPES


def test_the_world_is_that_of_the_run(untrained: Path, tmp_path: Path) -> None:
    assert world_of(tmp_path / "model", None) == RECIPES[DEFAULT_RECIPE]().data
    settings = tmp_path / "config.yaml"
    settings.write_text("recipe: tiny\ndata:\n  num_concepts: 24\n")
    assert world_of(tmp_path / "model", None).num_concepts == 24
    assert world_of(untrained, settings).num_concepts == 24
