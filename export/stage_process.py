"""One stage of an export, in a process of its own: `python -m export.stage_process STAGE JOB.json`.

Tracing and validation keep gigabytes, which are freed with the process, and a crash ends the stage alone. It prints
lines of progress; an error that ends it is written to a file beside the job.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from export.graph.onnx_graph import GraphError
from export.process.progress import Log
from export.stages import lower, trace
from export.store.job import Job
from export.validate.parity import ParityError
from export.validate.validate import validate
from models.program import explained
from models.write_errors import WriteError

ERROR_FILE = "error.json"
STAGES: dict[str, Callable[[Job, Log], None]] = {"onnx": trace, "lower": lower, "validate": validate}
ERRORS: tuple[type[Exception], ...] = (GraphError, ParityError, WriteError, FileNotFoundError, ValueError, OSError)
"""Errors of a stage; the first type that fits is raised again in the process that started it."""


def main(arguments: Sequence[str]) -> None:
    """Do a stage."""
    stage, file = arguments[0], Path(arguments[1])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports each torchvision op that is not installed
    try:
        STAGES[stage](Job.load(file), lambda line: print(line, flush=True))
    except ERRORS as error:
        kind = next(number for number, one in enumerate(ERRORS) if isinstance(error, one))
        file.with_name(ERROR_FILE).write_text(json.dumps([kind, explained(error)]))


def raise_error(work: Path) -> None:
    """Raise what a stage left in its folder; nothing if all went well."""
    file = work / ERROR_FILE
    if file.is_file():
        kind, message = json.loads(file.read_text())
        file.unlink()
        raise ERRORS[kind](message)


if __name__ == "__main__":
    main(sys.argv[1:])
