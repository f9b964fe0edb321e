"""The programs of this folder behind one name: `python -m export trt runs/demo/model --out runs/demo/export`."""

from __future__ import annotations

import argparse
import runpy
import sys

from models.program import run_program

PROGRAMS = {
    "trt": "export a trained model, compare it with PyTorch, build engines",
    "run": "continue a document with an export",
    "bench": "time an export beside PyTorch",
    "serve": "answer clients over HTTP, and show a page to write with the model",
    "verified": "print what is known of each component of an export, and where it was found out",
}


def main() -> None:
    """Run the program that is named first, with the rest of the arguments, as `python -m export.NAME` does."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Deploy a trained model.",
        epilog="\n".join(f"{name:10}{what}" for name, what in PROGRAMS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", choices=PROGRAMS, help="followed by its arguments; PROGRAM --help says which")
    program = parser.parse_args(sys.argv[1:2]).program
    sys.argv[1:2] = []
    runpy.run_module(f"export.{program}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
