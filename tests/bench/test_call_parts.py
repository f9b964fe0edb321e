"""The parts of a small call are told with the whole, and what is timed is right."""

from __future__ import annotations

import pytest
import torch

from bench import call_parts
from mmfs import compiled

pytestmark = [
    pytest.mark.skipif(compiled.why_not() is not None, reason="the compiled kernel is not built here"),
    pytest.mark.usefixtures("keeps_num_threads"),
]


def test_the_parts_and_the_rest_add_up_to_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    call_parts.main(["--channels", "8", "--rounds", "2", "--calls", "2"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    by_call: dict[str, dict[str, float]] = {}
    for call, part, microseconds in rows[1:]:
        by_call.setdefault(call, {})[part] = float(microseconds)
    assert len(by_call) == 3
    for parts in by_call.values():
        whole = parts.pop("all")
        assert whole > 0
        assert sum(parts.values()) == pytest.approx(whole, abs=0.1 * len(parts))


def test_a_wrong_result_is_not_timed() -> None:
    with pytest.raises(AssertionError, match="a result is off by"):
        call_parts.check_close([torch.ones(3)], [torch.ones(3) * 1.001])
