"""Parts as wide as the real ones, cut short: heads of 128, a width of 5120, a U-Net of SD 2.1's outer blocks."""

import dataclasses
import math
from pathlib import Path

import onnx
import pytest
import torch

from export.components.all import components_of
from export.components.check_inputs import Case
from export.components.component import Component, Tolerances
from export.graph.external_data import is_external, write_weights
from export.graph.float32_nodes import num_products
from export.graph.kv_cache import lower_attention
from export.graph.meta_model import open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision
from export.graph.quantization import matrices_of, write_quantized
from export.store.entries import quantized_entry
from export.validate.eight_bit import check_quantized
from export.validate.parity import check
from export.validate.validate import run_of
from models import MMInterleaved, MMInterleavedConfig

WIDTH, HEADS, KEY_HEADS, FEED_FORWARD = 5120, 40, 2, 512


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two decoder layers of LLaMA-13B's width, MMFS in the second; keys are shared and the feed-forward is cut."""
    tiny = MMInterleavedConfig.tiny()
    transformer = {
        **tiny.language_model.transformer,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 2,
    }
    language_model = dataclasses.replace(tiny.language_model, transformer=transformer, mmfs_first=1, mmfs_every=2)
    unet = {
        **tiny.image_decoder.unet,
        "block_out_channels": (320, 640),
        "attention_head_dim": (5, 10),
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
    }
    image_decoder = dataclasses.replace(tiny.image_decoder, unet=unet)
    torch.manual_seed(0)
    model = MMInterleaved(dataclasses.replace(tiny, language_model=language_model, image_decoder=image_decoder))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    directory = tmp_path_factory.mktemp("wide")
    model.save_pretrained(directory)
    return directory


def random_case(component: Component, sizes: dict[str, int]) -> Case:
    generator = torch.Generator().manual_seed(1)
    inputs = {}
    for name, port in component.inputs.items():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.shape]
        is_float = port.dtype.is_floating_point
        inputs[name] = torch.randn(shape, generator=generator) if is_float else torch.zeros(shape, dtype=port.dtype)
    inputs["visible"][..., 1] = sizes["images"]
    if "past" in sizes:
        inputs["position_ids"] += torch.arange(sizes["tokens"]) + sizes["past"] - 1
        inputs["write_indices"] += sizes["past"] - 1
        inputs["last_token_ids"] += sizes["tokens"] - 1
    return Case(str(sizes), inputs)


LLM_SIZES = [
    {"batch": 1, "tokens": 6, "past": 1, "images": 2},
    {"batch": 1, "tokens": 1, "past": 9, "images": 2},
    {"batch": 2, "tokens": 4, "past": 5, "images": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "all_sizes"),
    [
        (
            "llm",
            LLM_SIZES,
        ),
        ("unet_mmfs", [{"batch": 1, "images": 2}]),
    ],
)
def test_a_wide_component_is_the_model(
    wide_dir: Path, tmp_path: Path, name: str, all_sizes: list[dict[str, int]]
) -> None:
    skeleton, stored = open_meta_model(wide_dir)
    proto = lower_attention(to_onnx(components_of(skeleton)[name], stored).proto, "trt_split")
    in_checkpoint = sum(math.prod(tensor.dims) * 4 for tensor in proto.graph.initializer if is_external(tensor))
    assert len(proto.SerializeToString()) < 0.1 * in_checkpoint
    half = lower_precision(proto, "bfloat16")
    assert num_products(half)["bfloat16"] > 3 * num_products(half)["float"]

    write_weights(proto, wide_dir, tmp_path / "wide.data")
    onnx.save(proto, tmp_path / "wide.onnx")
    component = components_of(MMInterleaved.from_pretrained(wide_dir))[name]
    results = check(component, tmp_path / "wide.onnx", [random_case(component, sizes) for sizes in all_sizes])
    assert all(result.worst <= Tolerances().relative_error for result in results)


@pytest.mark.slow
def test_a_wide_language_model_of_eight_bits_is_half_as_large(wide_dir: Path, tmp_path: Path) -> None:
    skeleton, stored = open_meta_model(wide_dir)
    neutral = lower_attention(to_onnx(components_of(skeleton)["llm"], stored).proto, "trt_split")
    half, small = lower_precision(neutral, "float16"), lower_precision(neutral, "float16")
    (tmp_path / "onnx").mkdir()
    file = tmp_path / "onnx/small.onnx"
    write_weights(half, wide_dir, tmp_path / "half.data")
    write_quantized(small, "int8", "float16", wide_dir, file.with_suffix(".data"))
    onnx.save(small, file)
    sizes = [sum(one.stat().st_size for one in tmp_path.rglob(name)) for name in ("half.data", "small.*")]
    entry, expected = quantized_entry(small), matrices_of(skeleton)
    assert 0.5 < entry.bytes_after / entry.bytes_before < 0.51
    assert sizes[0] - sizes[1] == pytest.approx(entry.bytes_before - entry.bytes_after, rel=0.02)
    assert sizes[1] < 0.65 * sizes[0], "here, a fifth belongs to MMFS and the head, which keep their type"
    assert entry.num_matrices == len(expected) == 2 * 7
    assert entry.bytes_before == 2 * sum(matrix.numel() for matrix in expected)

    llm = components_of(MMInterleaved.from_pretrained(wide_dir))["llm"]
    case = random_case(llm, LLM_SIZES[2])
    (result,) = check_quantized(llm, run_of(llm, file, "float16"), [case])
    assert 1e-3 < result.worst < 0.03
