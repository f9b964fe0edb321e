"""The table of scores: each beside chance, and beside those of other weights."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from trainer.demo.content import Demo
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.scores import Score
from trainer.evaluation.tasks import EVALUATION_TASKS


def section(demo: Demo) -> str:
    columns: list[tuple[str, Callable[[str, str], Score | None]]] = []
    if (bare := demo.without_mmfs) is not None:
        columns.append(("trained<br>without MMFS", lambda task, name: bare.scores.get(task, {}).get(name)))
    if demo.shipped is not None:
        columns.append(("shipped weights", lambda task, name: _measured(demo.shipped, task, name)))
    columns.append(("after live training", lambda task, name: _measured(demo.live, task, name)))
    rows = []
    for task, result in demo.live.tasks.items():
        for place, (name, score) in enumerate(result.scores.items()):
            first = f'<span class="what">{EVALUATION_TASKS[task].title}</span>' if place == 0 else ""
            chance = "–" if score.chance is None else f"{100 * score.chance:.1f}"
            cells = "".join(
                f'<td class="score">{_score_cell(get(task, name), score.chance, plain=column < len(columns) - 1)}</td>'
                for column, (_, get) in enumerate(columns)
            )
            rows.append(
                f"<tr{' class=group' if place == 0 else ''}><td>{first}</td>"
                f"<td>{escape(EVALUATION_TASKS[task].labels[name])}</td>"
                f'<td class="number">{score.num_documents}</td><td class="number">{chance}</td>{cells}</tr>'
            )
    head = "".join(f'<th class="score">{title}</th>' for title, _ in columns)
    lowest = min(score.ceiling for result in demo.live.tasks.values() for score in result.scores.values())
    explained = ""
    if demo.without_mmfs is not None:
        steps = demo.without_mmfs.training["steps"].get("main", 0)
        explained = (
            '<p class="note">“Trained without MMFS” is the same model with no MMFS layer in its language model and '
            f"its image decoder, trained for {steps:,} steps of its own: the command at the end of the page says "
            "from which weights. It was recorded when the shipped weights were made. Where it has “–”, it was not "
            "asked, or the score is measured in another way since.</p>"
        )
    return (
        '<p class="note">Per cent, ± one standard error, on held-out documents: each shows a sprite on a colour, or '
        "two sprites together, that no training image shows. The line in each bar is chance: the score of answering "
        "each document with another one’s right answer, by the same scorer. The truth given as an answer "
        f"scores {'100 everywhere' if lowest == 1 else f'at least {100 * lowest:.0f}'}.</p>"
        '<p class="note">In a drawing, a place shows whichever is nearest: one of the '
        f"{demo.live.settings.num_concepts} sprites, compared at its true place and size, moved by up to 2 pixels, "
        "mirrored or not, or nothing, which is any one colour. What is drawn beside the places counts as sprites that "
        "nobody asked for. A background is the nearest of 8 named colours. The whole scene is right if all of that is. "
        "Of a written answer the last number or box counts.</p>"
        f'<div class="panel"><table><thead><tr><th>task</th><th>score</th><th class="number">documents</th>'
        f'<th class="number">chance</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{explained}'
    )


def _measured(evaluation: Evaluation | None, task: str, name: str) -> Score | None:
    return evaluation.tasks[task].scores.get(name) if evaluation is not None and task in evaluation.tasks else None


def _score_cell(score: Score | None, chance: float | None, *, plain: bool) -> str:
    if score is None:
        return "–"
    tick = "" if chance is None else f'<b style="left:{100 * chance:.1f}%"></b>'
    return (
        f"{100 * score.mean:.0f} <small>± {100 * score.standard_error:.0f}</small>"
        f'<div class="bar{" plain" if plain else ""}"><i style="width:{100 * score.mean:.1f}%"></i>{tick}</div>'
    )
