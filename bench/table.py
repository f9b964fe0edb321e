"""python -m bench.table RESULT.json: what `pytest bench/ --benchmark-json RESULT.json` wrote, as a Markdown table.

Times are medians. "x" is how many times faster than transformers' own function in the same run, on as many threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEADER = (
    "| workload | direction | implementation | threads | ms | x | peak MiB | error |\n"
    "|---|---|---|---:|---:|---:|---:|---:|"
)
PEER = "transformers"


def table(result: dict[str, Any]) -> str:
    """One row a benchmark, in the order of the run."""
    medians_s = {}
    for entry in result["benchmarks"]:
        info = entry["extra_info"]
        medians_s[key(info)] = entry["stats"]["median"]
    rows = [HEADER]
    for entry in result["benchmarks"]:
        info = entry["extra_info"]
        median_s = medians_s[key(info)]
        peer_s = medians_s.get(key(info | {"implementation": PEER}))
        peak_bytes = info["peak_memory_bytes"]
        cells = [
            *map(str, key(info)),
            f"{1e3 * median_s:.3g}" if median_s < 0.1 else f"{1e3 * median_s:.0f}",
            "–" if peer_s is None else f"{peer_s / median_s:.2f}",
            "–" if peak_bytes is None else f"{peak_bytes / 2**20:.0f}",
            f"{info['relative_error']:.1e}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def key(info: dict[str, Any]) -> tuple[str, str, str, int]:
    """What a row is about."""
    return info["workload"], info["direction"], info["implementation"], info["num_threads"]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.table RESULT.json")
    print(table(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
