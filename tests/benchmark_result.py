"""A row of the benchmarks' table."""

from trainer.benchmarks.result import Result

RESULT = Result(
    benchmark="gqa",
    title="GQA",
    split="testdev",
    metric="exact match",
    value=61.25,
    standard_error=0.5,
    n=12_578,
    n_split=12_578,
    paper_zero_shot=None,
    paper_tuned=60.5,
    paper_where="Table 2",
    higher_is_better=True,
    parts={"answer type binary": 78.85},
)
