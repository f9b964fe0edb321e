"""Builds the API reference from the docstrings, without a network: `python docs/reference.py OUT`, or `make docs`.

A module that is not named here is not public. A warning of pdoc is an error: a name in `__all__` that is not there,
a type that cannot be resolved, a docstring that cannot be read.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

ROOT = Path(__file__).resolve().parents[1]

MODULES = [
    "mmfs",
    "mmfs.reference",
    "models.mm_interleaved",
    "models.pretrained.from_parts",
    "models.config",
    "models.processor",
    "models.batch",
    "models.network",
    "models.vision_encoders.interface",
    "models.language_models.interface",
    "models.generation.generate",
    "models.generation.options",
    "models.generation.generated",
    "models.generation.scoring",
    "models.generation.prompts",
    "trainer.config",
    "trainer.recipes.toy",
    "trainer.recipes.toy_finetuning",
    "trainer.recipes.paper",
    "trainer.recipes.finetuning",
    "export.runtime.session",
    "plugins_trt.node_contract",
    "plugins_trt.onnx_node",
    "plugins_trt.onnx_function",
    "plugins_trt.plugin",
    "plugins_trt.plugin_kinds",
    "plugins_trt.tensorrt_package",
]


def main(out: Path) -> None:
    """Write one page per module, an index and a search index."""
    sys.path.insert(0, str(ROOT))
    pdoc.render.configure(
        docformat="google",
        include_undocumented=False,
        show_source=False,
        template_directory=ROOT / "docs" / "templates",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*MODULES, output_directory=out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder to write to: python docs/reference.py build/docs")
    main(Path(sys.argv[1]))
