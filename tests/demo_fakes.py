"""Results that look like those of a model, made from the truth, for tests of the page."""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage

from trainer.data.document import Document, Image
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.demo.content import Demo, LocatedAnswer, LocatedWord, Recorded, Run, Told
from trainer.evaluation.answers import Written
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.grading import Answered, grade
from trainer.evaluation.settings import Settings
from trainer.evaluation.tasks import EVALUATION_TASKS, true_image
from trainer.logging.charts import Curve

SIDE = 32
NUM_CONCEPTS = 27
WORLD = TaskOptions(num_concepts=NUM_CONCEPTS)


def perfect_answer(document: Document) -> Written:
    """What a faultless model would say."""
    if EVALUATION_TASKS[document.task].kind == "text":
        return document.truth["answer"]
    return PILImage.fromarray(true_image(document).pixels).resize((SIDE, SIDE), PILImage.Resampling.BOX)


def fake_evaluation(sha256: str, *, num_documents: int, every_wrong: int) -> Evaluation:
    """Right answers, but each `every_wrong`-th document is answered with the next one's."""
    results = {}
    for task, definition in EVALUATION_TASKS.items():
        asked = documents(task, "val", 0, num_documents + 1, options=WORLD)
        written = [perfect_answer(asked[i + (i % every_wrong == 0)]) for i in range(num_documents)]
        results[task] = grade(definition, asked[:-1], written, num_concepts=NUM_CONCEPTS, image_side=SIDE, wall_s=1.5)
    settings = Settings(num_texts=num_documents, num_images=num_documents, num_concepts=NUM_CONCEPTS)
    weights = {"sha256": sha256 * 64, "num_parameters": 3_210_000, "has_mmfs": True}
    return Evaluation(results, settings, weights, wall_s=12.0)


def fake_record(*, num_documents: int) -> Recorded:
    """All wrong."""
    evaluation = fake_evaluation("c", num_documents=num_documents, every_wrong=1)
    scores = {task: result.scores for task, result in evaluation.tasks.items()}
    answers = {
        one.document.key: one.answer
        for result in evaluation.tasks.values()
        for one in result.answered
        if isinstance(one.answer, str)
    }
    return Recorded(scores, answers, {"command": "python -m trainer.pretrain --bare <true>", "steps": {"main": 4321}})


def fake_run(title: str, num_steps: int) -> Run:
    """Falling, noisy losses."""
    steps = tuple(range(1, num_steps + 1))
    noise = np.random.default_rng(0).normal(0, 0.1, num_steps)
    values = tuple(float(5 / (1 + step / 30) * np.exp(bump)) for step, bump in zip(steps, noise, strict=True))
    return Run(title, Curve("loss_text", steps, values), Curve("loss_image", steps, tuple(v / 9 for v in values)))


def fake_located(answered: Answered, points: tuple[tuple[float, float, float], ...]) -> LocatedAnswer:
    """An answer that begins with a word of HTML; all words but the first look at fewer points, and less."""
    num_images = sum(
        isinstance(segment, Image) for segment in EVALUATION_TASKS[answered.document.task].prompt(answered.document)
    )
    words = ["<top>", *str(answered.answer).split()]
    return LocatedAnswer(
        answered,
        tuple(
            LocatedWord(
                text, (points[: None if number == 0 else 3],) * num_images, (0.9 if number == 0 else 0.25,) * num_images
            )
            for number, text in enumerate(words)
        ),
    )


def fake_demo(*, num_documents: int = 2) -> Demo:
    """A page's content with every section."""
    live = fake_evaluation("a", num_documents=num_documents, every_wrong=2)
    [story] = documents("story_steps", "val", 0, 1, options=WORLD)
    [label_map] = documents("label_map_steps", "val", 0, 1, options=WORLD)
    points = tuple((x / 8, y / 8, x * y / 64) for x in range(1, 8) for y in range(1, 8))
    return Demo(
        live=live,
        shipped=fake_evaluation("b", num_documents=num_documents, every_wrong=3),
        without_mmfs=fake_record(num_documents=num_documents),
        runs=(fake_run("the long run", 3000), fake_run("this run", 120)),
        located_answers=tuple(
            fake_located(one, points)
            for task in ("read_steps", "compare_steps", "ground_steps", "caption")
            for one in live.tasks[task].answered
        ),
        stories=(
            Told(
                story,
                story.segments[:1],
                (" top left owl", perfect_answer(story), " the owl moves <up> step by step top owl"),
            ),
        ),
        label_maps=(Told(label_map, label_map.segments[:2], (" 03 banana", perfect_answer(label_map))),),
        export={
            "samples": "the first 4 documents",
            "components": {
                "visual_tokenizer": {
                    "num_nodes": 812,
                    "num_mmfs_nodes": {"ms_deform_attn": 4},
                    "onnx": {"file": {"bytes": 3_400_000}},
                    "validation": {"max_relative_error": 2.4e-6},
                },
                "decode_tokens": {
                    "num_nodes": 40,
                    "num_mmfs_nodes": {},
                    "onnx": {"file": {"bytes": 100_000}},
                    "validation": {"max_relative_error": 0.0},
                },
            },
        },
        made_by={
            "command": "python -m trainer.pretrain toy_scratch & <so on>",
            "steps": {"main": 12000},
            "minutes": 61.5,
        },
        commands={"training": "python -m trainer.pretrain toy --out runs/demo", "scores": "python -m trainer.evaluate"},
        environment={"machine": "a processor", "torch": "2.13.0"},
        wall_times_s={"training": 300.0, "scores": 41.0},
    )
