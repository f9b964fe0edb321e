import dataclasses
import math

from benchmark_result import RESULT
from models.json_files import write_json
from trainer.benchmarks.result import in_words, read_result
from trainer.benchmarks.table import as_markdown, as_text


def test_a_deviation_sets_a_figure_apart() -> None:
    part = dataclasses.replace(RESULT, n=10, deviations=["10 of 12,578 samples"], notes=["a | b"])
    text = as_text([RESULT, part])
    assert "61.25 ± 0.50" in text
    assert "≈ 61.25 ± 0.50" in text
    assert "gqa: 10 of 12,578 samples" in text
    markdown = as_markdown([RESULT, part])
    rows = [line for line in markdown.splitlines() if line.startswith("| gqa")]
    assert [row.count("≈") for row in rows] == [0, 1]
    assert "* answer type binary: 78.85" in markdown
    assert "testdev, 10 of 12,578" in rows[1]


def test_figures_have_digits_that_say_something() -> None:
    assert in_words(129.034, 1.2) == "129.03 ± 1.20"
    assert in_words(0.70123) == "0.7012"
    assert in_words(math.nan) == "-"


def test_results_are_kept(tmp_path) -> None:
    write_json(tmp_path / "result.json", RESULT.to_dict())
    assert read_result(tmp_path) == dataclasses.replace(RESULT, deviations=[], notes=[])
