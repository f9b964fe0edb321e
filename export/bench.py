"""Speed of an exported model, compared with PyTorch in the same run: `python -m export.bench DIR --model M`.

Both do the same work through the same interface; the error of the results is printed with each time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from export.formats import BACKENDS
from export.workload import Work
from models.program import run_program
from models.urls import local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be run."""
    usual = Work()
    parser = argparse.ArgumentParser(prog="python -m export.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=local_path, metavar="DIR", help="what python -m export.trt wrote")
    parser.add_argument("--model", type=local_path, required=True, metavar="MODEL_DIR", help="what was exported")
    parser.add_argument("--backend", choices=BACKENDS, default="ort", help="default: %(default)s")
    parser.add_argument("--device", help="cpu or cuda; default: what the back end runs on")
    parser.add_argument("--prompt-tokens", type=int, default=usual.num_prompt_tokens, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=usual.num_new_tokens, metavar="N")
    parser.add_argument("--num-inference-steps", type=int, default=usual.num_inference_steps, metavar="N")
    parser.add_argument("--rounds", type=int, default=usual.rounds, metavar="N", help="timed, after one that is not")
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    from export.measure import measure_export  # after the options, so that --help costs nothing

    return measure_export(options)


if __name__ == "__main__":
    sys.exit(run_program(main))
