from __future__ import annotations

from bench.table import HEADER, table


def entry(implementation: str, median_s: float, peak_bytes: int | None) -> dict:
    info = {
        "workload": "unet-8-images-1",
        "direction": "forward",
        "implementation": implementation,
        "peak_memory_bytes": peak_bytes,
        "relative_error": 2e-7,
    }
    return {"extra_info": info, "stats": {"median": median_s}}


def test_speeds_are_relative_to_transformers_in_the_same_run():
    result = {"benchmarks": [entry("cpu", 0.002, 3 * 2**20), entry("transformers", 2.5, None)]}
    assert table(result).removeprefix(HEADER).strip().splitlines() == [
        "| unet-8-images-1 | forward | cpu | 2 | 1250.00 | 3 | 2.0e-07 |",
        "| unet-8-images-1 | forward | transformers | 2500 | 1.00 | – | 2.0e-07 |",
    ]


def test_without_the_peer_there_is_no_ratio():
    assert "| cpu | 2 | – | 3 |" in table({"benchmarks": [entry("cpu", 0.002, 3 * 2**20)]})
