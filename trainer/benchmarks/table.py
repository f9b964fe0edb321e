"""Results beside the paper's figures, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.benchmarks.result import Result, in_words

HEADER = ("benchmark", "split, n", "metric", "here", "paper, zero-shot", "paper, fine-tuned", "set apart")
EXPLAINED = (
    "≈ marks a figure whose set-up differs from the paper's, so that it reproduces nothing; what differs stands below. "
    "The paper's figures are for its model of 13 billion parameters, zero-shot and after fine-tuning."
)


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A row for each result, in the columns of HEADER."""
    found: list[tuple[str, ...]] = []
    for result in results:
        part = f" of {result.n_split:,}" if result.n < result.n_split else ""
        mark = "" if result.is_comparable else "≈ "
        found.append(
            (
                result.benchmark,
                f"{result.split}, {result.n:,}{part}",
                result.metric + ("" if result.higher_is_better else " (lower is better)"),
                mark + in_words(result.value, result.standard_error),
                "-" if result.paper_zero_shot is None else f"{result.paper_zero_shot:g}",
                "-" if result.paper_tuned is None else f"{result.paper_tuned:g}",
                "; ".join(result.deviations) or "-",
            )
        )
    return found


def as_text(results: Sequence[Result]) -> str:
    """For a terminal: the columns, and below them what sets figures apart."""
    lines = [row[:-1] for row in (HEADER, *rows(results))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for result in results:
        text += [f"  {result.benchmark}: {sentence}" for sentence in (*result.deviations, *result.notes)]
    return "\n".join(text)


def as_markdown(results: Sequence[Result]) -> str:
    """As a file, with the parts of each figure."""
    lines = ["# Benchmarks", "", EXPLAINED, "", _line(HEADER), _line(["---"] * len(HEADER))]
    lines += [_line(row) for row in rows(results)]
    for result in results:
        if result.parts or result.notes:
            lines += ["", f"## {result.title}", ""]
            lines += [f"* {name}: {in_words(value)}" for name, value in result.parts.items()]
            lines += [f"* {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
