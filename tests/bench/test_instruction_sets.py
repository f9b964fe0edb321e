"""A row is of the library that it names, and nothing wrong is timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from bench import instruction_sets
from mmfs import compiled
from mmfs.compiled import InstructionSet

pytestmark = [
    pytest.mark.skipif(compiled.why_not() is not None, reason="the compiled kernel is not built here"),
    pytest.mark.usefixtures("keeps_num_threads"),
]

SMALL = ["--smoke", "--rounds", "1", "--sets", "portable", "--dtypes", "float32"]


def test_a_row_for_transformers_and_for_each_library(capsys: pytest.CaptureFixture[str]) -> None:
    instruction_sets.main(SMALL)
    _, _, peer, own = capsys.readouterr().out.strip().splitlines()
    assert peer.startswith("| unet-64-images-1 | float32 | transformers |")
    assert "| 1.0 (1.0) |" in peer
    assert own.startswith("| unet-64-images-1 | float32 | portable |")
    assert float(own.split(" | ")[-1].strip(" |")) < 1e-5


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = instruction_sets.by_library

    def wrong(name: InstructionSet) -> Callable[..., Tensor]:
        return lambda **arguments: right(name)(**arguments) * 1.001

    monkeypatch.setattr(instruction_sets, "by_library", wrong)
    with pytest.raises(AssertionError, match="portable is off by"):
        instruction_sets.main(SMALL)
