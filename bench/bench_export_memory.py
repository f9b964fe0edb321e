"""How much memory an export takes: `pytest bench/bench_export_memory.py -s`, or as a program for the table.

    python -m bench.bench_export_memory

A checkpoint with a language model of LLaMA-13B's width and two layers (2.7 GB in float32) is traced and lowered to
bfloat16 in a process of its own; what is counted is by how much that raises the process's peak over its imports. The
checkpoint is a file with holes instead of numbers, so that the disk is not what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from tokenizers import Tokenizer

from bench.measure import resident_bytes
from export.components.all import components_of
from export.formats import DEFAULT_KV_CACHE
from export.graph.external_data import write_weights
from export.graph.kv_cache import lower_attention
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.config import CONFIG_FILE
from models.tensor_files import WEIGHTS_FILE
from models.uninitialized import uninitialized

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "trainer/data/emoji/tokenizer.json"
ALLOWED_BYTES = 1.2e9
"""More than the imports."""


def wide_config(width: int, feed_forward: int, num_layers: int) -> MMInterleavedConfig:
    """The tiny model with a wide language model."""
    tiny = MMInterleavedConfig.tiny()
    transformer = {
        **tiny.language_model.transformer,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // 128,
        "num_key_value_heads": width // 128,
    }
    return dataclasses.replace(
        tiny, language_model=dataclasses.replace(tiny.language_model, transformer=transformer, mmfs_every=num_layers)
    )


def write_checkpoint(config: MMInterleavedConfig, directory: Path) -> int:
    """A model directory whose numbers are all zero and take no disk; returns their size in bytes."""
    processor = MMInterleavedProcessor(Tokenizer.from_file(str(TOKENIZER)), image_size=32)
    model = uninitialized(lambda: MMInterleaved(config, processor))
    directory.mkdir(parents=True)
    config.save(directory / CONFIG_FILE)
    processor.save_pretrained(directory)
    contents, position = {}, 0
    for name, tensor in model.state_dict().items():
        length = math.prod(tensor.shape) * 4
        contents[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [position, position + length]}
        position += length
    header = json.dumps(contents).encode()
    header += b" " * (-len(header) % 8)
    with (directory / WEIGHTS_FILE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + position)
    return position


def trace(model_dir: Path, folder: Path) -> None:
    """The language model as a graph that points into the checkpoint."""
    model, stored = open_meta_model(model_dir)
    (folder / "neutral.onnx").write_bytes(to_onnx(components_of(model)["llm"], stored).proto.SerializeToString())


def lower(model_dir: Path, folder: Path) -> None:
    """The graph in bfloat16, with its weights beside it."""
    neutral = onnx.load(folder / "neutral.onnx", load_external_data=False)
    proto = lower_precision(lower_attention(neutral, DEFAULT_KV_CACHE), "bfloat16")
    write_weights(proto, model_dir, folder / "llm.data")
    (folder / "llm.onnx").write_bytes(proto.SerializeToString())


def peak_bytes() -> int:
    """Largest resident set of this program so far; what getrusage says may be that of the one which started it."""
    return resident_bytes("VmHWM")


def measure(config: MMInterleavedConfig) -> dict[str, int]:
    """Bytes of the weights, of what was written, and by how much tracing and lowering raise the peak of a process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = write_checkpoint(config, folder / "model")
        command = [sys.executable, "-m", "bench.bench_export_memory", str(folder)]
        lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        written = (folder / "llm.data").stat().st_size
    return {"weights": weights, "written": written, **json.loads(lines.splitlines()[-1])}


def test_exporting_takes_little_memory() -> None:
    found = measure(wide_config(5120, 13824, 2))
    print(found)
    assert found["weights"] > 2e9
    assert found["written"] < 0.55 * found["weights"], "bfloat16 takes half of float32"
    assert found["lower"] < ALLOWED_BYTES


if __name__ == "__main__":
    if len(sys.argv) > 1:
        scratch_dir, start = Path(sys.argv[1]), peak_bytes()
        trace(scratch_dir / "model", scratch_dir)
        traced = peak_bytes()
        lower(scratch_dir / "model", scratch_dir)
        print(json.dumps({"trace": traced - start, "lower": peak_bytes() - start}))
    else:
        for name, size in measure(wide_config(5120, 13824, 2)).items():
            print(f"{name:10}{size / 1e6:10.0f} MB")
