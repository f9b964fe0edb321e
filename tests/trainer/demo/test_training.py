import json
from pathlib import Path

from trainer.demo.options import Options
from trainer.demo.training import run_of, training_arguments
from trainer.options.parser import parse
from trainer.recipes import DEFAULT_RECIPE, RECIPES


def test_the_training_goes_on_from_the_given_weights() -> None:
    arguments = training_arguments(Options(Path("runs/x"), Path("some/weights"), minutes=2.5, quick=False))
    command = parse(arguments, RECIPES, DEFAULT_RECIPE)
    assert command.resume == "auto"
    assert (command.config.init, command.config.max_minutes) == ("some/weights", 2.5)
    assert command.config.encoder_pretraining.num_steps == 0
    scratch = parse(
        training_arguments(Options(Path("runs/x"), None, minutes=None, quick=True)), RECIPES, DEFAULT_RECIPE
    )
    assert scratch.config.init is None
    assert scratch.config.encoder_pretraining.num_steps > 0
    assert scratch.config.num_steps < 10
    assert scratch.config.data.tasks == command.config.data.tasks, "the page shows answers in steps"


def test_losses_come_from_the_main_training_alone(tmp_path: Path) -> None:
    records = [
        {"event": "start"},
        {"phase": "encoder", "step": 1, "loss_objects": 3.0},
        {"phase": "main", "step": 1, "loss_text": 5.0, "loss_image": None},
        {"phase": "main", "step": 2, "loss_text": 4.0, "loss_image": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = run_of("a run", tmp_path)
    assert (run.text.steps, run.text.values) == ((1, 2), (5.0, 4.0))
    assert (run.image.steps, run.image.values) == ((2,), (0.5,))
