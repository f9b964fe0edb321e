from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from demo_fakes import NUM_CONCEPTS
from models import MMInterleaved
from trainer.evaluation.evaluated_model import describe_weights
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS


def test_a_model_is_examined_in_every_task(untrained: Path) -> None:
    model = MMInterleaved.from_pretrained(untrained)
    settings = Settings(
        tasks=tuple(EVALUATION_TASKS), num_texts=1, num_images=1, num_steps=1, num_concepts=NUM_CONCEPTS
    )
    lines: list[str] = []
    result = evaluate(model, settings, weights=describe_weights(untrained, model), progress=lines.append)
    assert list(result.tasks) == list(EVALUATION_TASKS)
    assert len(lines) == len(EVALUATION_TASKS)
    assert lines[-1].endswith("0:00 left")
    for task, evaluated in result.tasks.items():
        [answered] = evaluated.answered
        assert isinstance(answered.answer, str if EVALUATION_TASKS[task].kind == "text" else PILImage.Image)
        assert answered.document.key == f"emoji/{task}/val/0"
        assert all(0 <= score.mean <= 1 and score.ceiling == 1 for score in evaluated.scores.values())
    again = evaluate(model, replace(settings, tasks=("draw",)), weights={})
    one, other = (np.asarray(r.tasks["draw"].answered[0].answer) for r in (result, again))
    assert (one == other).all(), "equal seeds draw equal images"
