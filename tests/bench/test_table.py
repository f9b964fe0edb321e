from __future__ import annotations

from bench.table import HEADER, table


def entry(implementation: str, median_s: float, peak_bytes: int | None, num_threads: int = 1) -> dict:
    info = {
        "workload": "unet-8-images-1",
        "direction": "forward",
        "implementation": implementation,
        "num_threads": num_threads,
        "peak_memory_bytes": peak_bytes,
        "relative_error": 2e-7,
    }
    return {"extra_info": info, "stats": {"median": median_s}}


def test_speeds_are_relative_to_transformers_in_the_same_run():
    result = {"benchmarks": [entry("cpu", 0.002, 3 * 2**20), entry("transformers", 2.5, None)]}
    assert table(result).removeprefix(HEADER).strip().splitlines() == [
        "| unet-8-images-1 | forward | cpu | 1 | 2 | 1250.00 | 3 | 2.0e-07 |",
        "| unet-8-images-1 | forward | transformers | 1 | 2500 | 1.00 | – | 2.0e-07 |",
    ]


def test_every_count_of_threads_has_its_own_peer():
    runs = [("cpu", 0.2, 1), ("transformers", 1.0, 1), ("cpu", 0.1, 2), ("transformers", 0.8, 2)]
    result = {"benchmarks": [entry(name, median_s, None, threads) for name, median_s, threads in runs]}
    rows = table(result).removeprefix(HEADER).strip().splitlines()
    assert [row.split(" | ")[3:6] for row in rows] == [
        ["1", "200", "5.00"],
        ["1", "1000", "1.00"],
        ["2", "100", "8.00"],
        ["2", "800", "1.00"],
    ]


def test_without_the_peer_there_is_no_ratio():
    assert "| cpu | 1 | 2 | – | 3 |" in table({"benchmarks": [entry("cpu", 0.002, 3 * 2**20)]})
