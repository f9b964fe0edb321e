"""Export a trained model: `python -m export.trt runs/demo/model --out runs/demo/export --stage build --builder rtx`.

    onnx      trace each component
    lower     write each graph in its precision, and the language model's in its KV-cache layout
    validate  compare every component with PyTorch in onnxruntime on real inputs, and let a generation loop made of the
              files alone write the same text and draw the same images
    build     TensorRT engines from the files
    bench     time the files in onnxruntime beside PyTorch

A stage first runs the stages before it, unless they are finished and nothing has changed; "bench" needs no engines.
Each runs in a process of its own, and finished work is kept, however the process ends: the same command continues from
there. The export appears when everything agrees with PyTorch; if anything differs by more than is allowed, the command
says what and leaves nothing behind. With --components it holds a part of the model, and the loop is not run; with
--torch-fallback PyTorch computes in the loop what has no file. The manifest records of each engine whether it was
built, executed and verified, and on which machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from export.command_line import command_line
from models.program import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for an export that failed, 2 for wrong arguments."""
    assert __doc__ is not None
    options = command_line(__doc__.partition("\n")[0]).parse_args(arguments)
    from export.pipeline import export_model  # after the options, so that --help costs nothing

    return export_model(options)


if __name__ == "__main__":
    sys.exit(run_program(main))
