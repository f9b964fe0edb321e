"""python -m bench.table RESULT.json: what `pytest bench/ --benchmark-json RESULT.json` wrote, as a Markdown page.

Times are of one call, medians. "wall" is from Python until the result is there, "device" what the GPU works on it. "x"
is how many times faster than transformers' own function in the same run, or than rebatching the queries of cameras:
by the device where both have that time.

A second table holds the benchmarks that are timed by turns with a baseline of their own (`bench/model_sides.py`): least
times, since the least is what a busy machine disturbs least, and how many times faster than the baseline, by the least
times and by the medians.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEADER = (
    "| workload | direction | type | locations | implementation | threads | wall ms | device ms | x | MiB | error |\n"
    "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|"
)
PAIRS_HEADER = (
    "| benchmark | baseline | threads | ms | baseline ms | x | x of medians | error |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)
PEERS = ("transformers", "rebatched")
"""No workload has both."""

Times = tuple[float, float | None]  # wall and device, in seconds
Key = tuple[str, str, str, str, str, int]


def page(result: dict[str, Any]) -> str:
    """When, how and on what it was measured, and the table."""
    machine = result["machine_info"]
    peers = ", ".join(f"{name} {version}" for name, version in machine["peers"].items())
    facts = [
        f"Date: {result['datetime'][:10]}",
        f"Command: `{machine['command']}`",
        f"Device: {machine['gpu'] or machine['cpu'].get('brand_raw', 'CPU')}",
        f"Versions: Python {machine['python_version']}, torch {machine['torch']} (CUDA {machine['cuda']}), {peers}",
        f"Commit: {result['commit_info'].get('id', 'unknown')}"
        + (", changed" * bool(result["commit_info"].get("dirty"))),
    ]
    return "\n".join(f"* {fact}" for fact in facts) + "".join(
        f"\n\n{each}" for each in (table(result), pairs(result)) if each
    )


def table(result: dict[str, Any]) -> str:
    """One row a benchmark of an op, in the order of the run; "" without any. "MiB" is peak memory beyond the inputs."""
    ops = [entry for entry in result["benchmarks"] if "workload" in entry["extra_info"]]
    times = {key(entry["extra_info"]): times_of(entry) for entry in ops}
    rows = [HEADER] if ops else []
    for entry in ops:
        info = entry["extra_info"]
        wall_s, device_s = times[key(info)]
        peak_bytes = info["peak_memory_bytes"]
        cells = [
            *map(str, key(info)),
            milliseconds(wall_s),
            milliseconds(device_s),
            ratio(peer_times(times, info), (wall_s, device_s)),
            "–" if peak_bytes is None else f"{peak_bytes / 2**20:.0f}",
            f"{info['relative_error']:.1e}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def pairs(result: dict[str, Any]) -> str:
    """One row a benchmark that was timed by turns with its baseline, in the order of the run; "" without any."""
    entries = [entry for entry in result["benchmarks"] if "baseline_least_s" in entry["extra_info"]]
    rows = [PAIRS_HEADER] if entries else []
    for entry in entries:
        info = entry["extra_info"]
        cells = [
            entry["name"].removeprefix("bench_"),
            info["baseline"],
            str(info["num_threads"]),
            milliseconds(info["least_s"]),
            milliseconds(info["baseline_least_s"]),
            f"{info['baseline_least_s'] / info['least_s']:.2f}",
            f"{info['times_faster']:.2f}",
            f"{info['relative_error']:.1e}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def peer_times(times: dict[Key, Times], info: dict[str, Any]) -> Times | None:
    found = (times.get(key(info | {"implementation": peer})) for peer in PEERS)
    return next((each for each in found if each is not None), None)


def times_of(entry: dict[str, Any]) -> Times:
    info = entry["extra_info"]
    return entry["stats"]["median"] / info["num_calls"], info.get("device_time_s")


def milliseconds(time_s: float | None) -> str:
    if time_s is None:
        return "–"
    return f"{1e3 * time_s:.3g}" if time_s < 0.1 else f"{1e3 * time_s:.0f}"


def ratio(peer: Times | None, own: Times) -> str:
    if peer is None:
        return "–"
    if peer[1] is not None and own[1] is not None:
        return f"{peer[1] / own[1]:.2f}"
    return f"{peer[0] / own[0]:.2f}"


def key(info: dict[str, Any]) -> Key:
    """What a row is about."""
    return (
        info["workload"],
        info["direction"],
        info["dtype"],
        info["locations"],
        info["implementation"],
        info["num_threads"],
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.table RESULT.json")
    print(page(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
