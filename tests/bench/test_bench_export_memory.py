import pytest

from bench.bench_export_memory import measure, wide_config


@pytest.mark.slow
def test_an_export_does_not_hold_its_weights() -> None:
    found = measure(wide_config(2048, 8192, 2))
    assert found["weights"] > 500e6
    assert found["written"] < 0.55 * found["weights"]
    assert 0 <= found["trace"] <= found["lower"] < 0.4 * found["weights"]
