from __future__ import annotations

from bench.table import HEADER, PAIRS_HEADER, page, pairs, table


def entry(
    implementation: str,
    median_s: float,
    peak_bytes: int | None,
    num_threads: int = 1,
    num_calls: int = 1,
    device_time_s: float | None = None,
) -> dict:
    info = {
        "workload": "unet-8-images-1",
        "direction": "forward",
        "dtype": "float32",
        "locations": "trained",
        "implementation": implementation,
        "num_calls": num_calls,
        "num_threads": num_threads,
        "peak_memory_bytes": peak_bytes,
        "relative_error": 2e-7,
    }
    if device_time_s is not None:
        info["device_time_s"] = device_time_s
    return {"extra_info": info, "stats": {"median": median_s}}


def test_speeds_are_relative_to_transformers_in_the_same_run():
    result = {"benchmarks": [entry("cpu", 0.002, 3 * 2**20), entry("transformers", 2.5, None)]}
    assert table(result).removeprefix(HEADER).strip().splitlines() == [
        "| unet-8-images-1 | forward | float32 | trained | cpu | 1 | 2 | – | 1250.00 | 3 | 2.0e-07 |",
        "| unet-8-images-1 | forward | float32 | trained | transformers | 1 | 2500 | – | 1.00 | – | 2.0e-07 |",
    ]


def test_every_count_of_threads_has_its_own_peer():
    runs = [("cpu", 0.2, 1), ("transformers", 1.0, 1), ("cpu", 0.1, 2), ("transformers", 0.8, 2)]
    result = {"benchmarks": [entry(name, median_s, None, threads) for name, median_s, threads in runs]}
    rows = table(result).removeprefix(HEADER).strip().splitlines()
    assert [row.split(" | ")[5:9] for row in rows] == [
        ["1", "200", "–", "5.00"],
        ["1", "1000", "–", "1.00"],
        ["2", "100", "–", "8.00"],
        ["2", "800", "–", "1.00"],
    ]


def test_without_the_peer_there_is_no_ratio():
    assert "| cpu | 1 | 2 | – | – | 3 |" in table({"benchmarks": [entry("cpu", 0.002, 3 * 2**20)]})


def test_times_are_of_one_call_and_the_device_decides_the_ratio():
    runs = [entry("cuda", 0.008, None, num_calls=4, device_time_s=5e-4), entry("sdpa", 0.004, None, num_calls=4)]
    runs.append(entry("transformers", 0.02, None, num_calls=4, device_time_s=2e-3))
    rows = table({"benchmarks": runs}).removeprefix(HEADER).strip().splitlines()
    assert [row.split(" | ")[6:9] for row in rows] == [["2", "0.5", "4.00"], ["1", "–", "5.00"], ["5", "2", "1.00"]]


def test_a_page_says_how_it_was_measured():
    machine = {
        "command": "pytest bench -k op",
        "gpu": "GPU X",
        "python_version": "3.12.1",
        "torch": "2.13",
        "cuda": "13.0",
    }
    result = {
        "machine_info": machine | {"peers": {"transformers": "5.17"}, "cpu": {}},
        "commit_info": {"id": "abc", "dirty": True},
        "datetime": "2026-11-23T10:00:00",
        "benchmarks": [entry("cuda", 0.1, None)],
    }
    text = page(result)
    for fact in (
        "Date: 2026-11-23",
        "`pytest bench -k op`",
        "GPU X",
        "torch 2.13 (CUDA 13.0), transformers 5.17",
        "abc, changed",
    ):
        assert fact in text
    assert text.endswith(table(result))


def pair(name: str, least_s: float, baseline_least_s: float) -> dict:
    info = {
        "baseline": "its two products",
        "num_threads": 1,
        "least_s": least_s,
        "baseline_least_s": baseline_least_s,
        "times_faster": 0.6,
        "relative_error": 5e-7,
    }
    return {"name": name, "extra_info": info, "stats": {"median": 1.0}}


def test_what_was_timed_by_turns_has_a_table_of_its_own():
    result = {"benchmarks": [pair("bench_layer[1-threads]", 2e-5, 1e-5)]}
    assert table(result) == ""
    assert pairs(result) == (
        f"{PAIRS_HEADER}\n| layer[1-threads] | its two products | 1 | 0.02 | 0.01 | 0.50 | 0.60 | 5.0e-07 |"
    )


def test_benchmarks_without_times_to_compare_are_in_neither_table():
    result = {"benchmarks": [{"name": "bench_toy", "extra_info": {"tokens read": 1.1}, "stats": {"median": 1.0}}]}
    assert (table(result), pairs(result)) == ("", "")
