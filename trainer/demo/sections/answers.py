"""Answers in text that can be stepped through word by word, beside those of the model without MMFS."""

from __future__ import annotations

from html import escape

from trainer.data.document import Image
from trainer.demo.content import Demo, LocatedAnswer
from trainer.demo.images import img
from trainer.demo.sections.located_answer import light, located_answer, rules
from trainer.demo.sections.marks import mark
from trainer.evaluation.grading import Answered
from trainer.evaluation.scores import Score
from trainer.evaluation.tasks import EVALUATION_TASKS


def number(demo: Demo) -> str:
    """The question that the page begins with: a number in an image of several things."""
    return _answers(
        demo,
        "read_steps",
        "The model writes what stands where, place after place, until it comes to the thing that it was asked for, and "
        "then the number below it. The dots are the points where its MMFS layers looked to write the marked word, "
        "larger for more attention; what they did not look at is darkened.",
    )


def several_images(demo: Demo) -> str:
    """A question about one of several images."""
    return _answers(
        demo,
        "compare_steps",
        "Two to four images, and a question about one of them. The frame around an image is the brighter, the more of "
        "the attention goes to it.",
    )


def box(demo: Demo) -> str:
    """Where a thing is."""
    return _answers(
        demo,
        "ground_steps",
        "The model names the things from left to right, each behind a rough position (column and row of a 10 × 10 "
        "grid), and then writes two corners of the box in thousandths of the image. At the last word, the image shows "
        "the true box (solid) and the written one (dashed).",
    )


def caption(demo: Demo) -> str:
    """What an image shows."""
    return _answers(demo, "caption", "The model says what it sees.")


def styles(demo: Demo) -> str:
    """What all of these sections need once."""
    num_words = max((len(located.words) for located in demo.located_answers), default=0)
    num_answers = max((len(_located(demo, task)) for task in EVALUATION_TASKS), default=0)
    choices = "".join(f".choices:has(.choice{n} :checked) .chosen{n}{{display:block}}" for n in range(num_answers))
    return f"<style>{rules(num_words)}{choices}</style>{light()}"


def _answers(demo: Demo, task: str, said: str) -> str:
    """Several answers, one of which is shown, and how often such answers are right; nothing without answers."""
    chosen = _located(demo, task)
    if not chosen:
        return ""
    choices, shown = "", ""
    for place, located in enumerate(chosen):
        document = located.answered.document
        images = "".join(
            img(segment.pixels, "") for segment in EVALUATION_TASKS[task].prompt(document) if isinstance(segment, Image)
        )
        choices += (
            f'<label class="choice{place}"><input type="radio" name="{task}"{" checked" * (place == 0)} '
            f'aria-label="example {place + 1}"><span>{images}{mark(located.answered.right)}</span></label>'
        )
        card = located_answer(located, f"{task}-{place}", _without_mmfs(demo, located))
        shown += f'<div class="chosen{place}">{card}</div>'
    return (
        f'<div class="choices"><div class="shown">{shown}</div><div class="below">'
        f'<fieldset class="choose"><legend>The first {len(chosen)} held-out examples, not the best ones</legend>'
        f"{choices}</fieldset>{_figures(demo, task)}</div></div><p>{said}</p>"
    )


def _located(demo: Demo, task: str) -> list[LocatedAnswer]:
    return [located for located in demo.located_answers if located.answered.document.task == task]


def _without_mmfs(demo: Demo, located: LocatedAnswer) -> Answered | None:
    """What the model without MMFS wrote to the same document, if that is known."""
    document = located.answered.document
    if demo.without_mmfs is None or document.key not in demo.without_mmfs.answers:
        return None
    said = demo.without_mmfs.answers[document.key]
    scores = EVALUATION_TASKS[document.task].score(said, document, demo.live.settings.num_concepts)
    return Answered(document, said, scores)


def _figures(demo: Demo, task: str) -> str:
    """The headline score of a task, beside that of the model without MMFS and chance."""
    name, score = next(iter(demo.live.tasks[task].scores.items()))
    bare = demo.without_mmfs.scores.get(task, {}).get(name) if demo.without_mmfs is not None else None
    figures, recorded = [_figure(score, "this model")], ""
    if bare is not None:
        figures.append(_figure(bare, "trained without MMFS"))
        recorded = ' Answers without MMFS are those of another model, <a href="#scores">recorded</a> earlier.'
    chance = f" By chance: {100 * score.chance:.0f} %." if score.chance is not None else ""
    label = escape(EVALUATION_TASKS[task].labels[name])
    return (
        f'<div><dl class="figures">{"".join(figures)}</dl><p class="note">Share of {score.num_documents} held-out '
        f"examples: {label}.{chance}{recorded}</p></div>"
    )


def _figure(score: Score, of: str) -> str:
    return f"<div><dt>{of}</dt><dd>{100 * score.mean:.0f} %</dd></div>"
