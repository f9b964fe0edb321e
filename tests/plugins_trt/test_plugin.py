"""The plugins inside TensorRT-RTX, whose Python interface is TensorRT's, on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import plugins_trt.plugin
from mmfs.arguments import MSDeformAttnArguments
from mmfs.kernels.nvrtc import find_nvrtc
from mmfs.reference import ms_deform_attn_reference
from op_cases import ms_deform_attn_case
from plugins_trt.launches import instances_of
from plugins_trt.node_contract import INPUTS, Node
from plugins_trt.plugin import Plugins, State, fields_of, node_of
from plugins_trt.tensorrt_package import open_package, why_not

LEVELS = ((4, 7), (3, 2))
FLAT = (4, 7, 3, 2)


@pytest.mark.parametrize(
    "node", [Node("MMFS", FLAT, None), Node("MMFS", FLAT, -0.75), Node("MMFS", FLAT, 0.0), Node("MSDeformAttn", FLAT)]
)
def test_attributes_survive_a_plan(node: Node) -> None:
    assert node_of(node.operator, fields_of(node)) == node


@pytest.mark.parametrize(
    ("wild", "sentence"),
    [
        ({"spatial_shapes": np.array([4, 7.5])}, r"spatial_shapes is \[4.0, 7.5\]\. Expected whole numbers"),
        ({"spatial_shapes": np.array([4, np.nan])}, r"spatial_shapes is \[4.0, nan\]\. Expected whole numbers"),
        ({"spatial_shapes": np.array([4, np.inf])}, r"spatial_shapes is \[4.0, inf\]\. Expected whole numbers"),
        ({"spatial_shapes": np.array([2**32, 2**32])}, r"The CUDA kernels take at most 2147483647 pixels an image"),
        ({"spatial_shapes": np.array([4, -7])}, "all positive"),
        ({"null_logit": np.array([np.nan])}, r"null_logit is nan\. Expected a finite float32, or use_null=0"),
        ({"null_logit": np.array([1e300])}, r"null_logit is 1e\+300\. Expected a finite float32"),
        ({"null_logit": np.zeros(2)}, r"null_logit of MMFS holds 2 numbers\. Expected one"),
        ({"use_null": np.zeros(0)}, r"use_null of MMFS holds 0 numbers\. Expected one"),
    ],
)
def test_attributes_of_any_numbers_are_refused(wild: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        node_of("MMFS", fields_of(Node("MMFS", (4, 7), 0.5)) | wild)


def test_a_missing_attribute_is_named() -> None:
    fields = {"spatial_shapes": np.array(FLAT), "use_null": np.array([1])}
    with pytest.raises(ValueError, match=r"The node MMFS lacks null_logit\. It has spatial_shapes, use_null"):
        node_of("MMFS", fields)


@pytest.fixture(scope="session")  # a second time, TensorRT refuses them
def plugins() -> Plugins:
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    return Plugins(open_package("rtx"), ("sm_90",))


def create(plugins: Plugins, operator: str, fields: Any, phase: str) -> Any:
    (creator,) = (creator for creator in plugins._creators if creator.name == operator)
    return creator.create_plugin("layer", fields, plugins.trt.TensorRTPhase.__members__[phase])


def built(plugins: Plugins, node: Node) -> Any:
    """As the parser makes it: attributes of any integer type."""
    trt = plugins.trt
    kinds = {"i": trt.PluginFieldType.INT64, "f": trt.PluginFieldType.FLOAT32}
    arrays = {
        name: array.astype(np.int64) if array.dtype.kind == "i" else array for name, array in fields_of(node).items()
    }
    fields = [trt.PluginField(name, array, kinds[array.dtype.kind]) for name, array in arrays.items()]
    return create(plugins, node.operator, trt.PluginFieldCollection(fields), "BUILD")


def test_a_layer_that_was_not_configured_has_no_kernels_and_says_why(plugins: Plugins) -> None:
    state = State(Node("MSDeformAttn", FLAT), number=1)
    with pytest.raises(RuntimeError, match="asks a layer MSDeformAttn for its kernels before it has configured it"):
        state.compile(plugins.architectures)


def described(trt: Any, tensor: torch.Tensor) -> Any:
    kinds = {torch.float16: trt.DataType.HALF, torch.float32: trt.DataType.FLOAT, torch.int64: trt.DataType.INT64}
    return SimpleNamespace(type=kinds[tensor.dtype], format=trt.TensorFormat.LINEAR, dims=tuple(tensor.shape))


def test_a_second_set_of_plugins_is_refused(plugins: Plugins) -> None:
    with pytest.raises(RuntimeError, match="has a plugin mmfs::MMFS, version 1, already"):
        Plugins(plugins.trt)


def test_a_plan_carries_the_plugin_and_its_kernels_and_runs(
    plugins: Plugins, make_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, node = plugins.trt, Node("MSDeformAttn", FLAT)
    case = ms_deform_attn_case(LEVELS, dim=8)
    inputs = [case.tensors[name].float() for name in INPUTS[node.operator]]
    inputs[0] = inputs[0].half()
    descriptions = [described(trt, tensor) for tensor in inputs]
    dynamic = [
        SimpleNamespace(desc=description, min=description.dims, max=description.dims) for description in descriptions
    ]
    plugin = built(plugins, node)
    assert plugin.get_output_data_types([d.type for d in descriptions]) == [trt.DataType.HALF]
    formats = [*dynamic, SimpleNamespace(desc=described(trt, inputs[0]))]
    assert all(plugin.supports_format_combination(position, formats, 3) for position in range(4))
    formats[3] = SimpleNamespace(desc=described(trt, inputs[1]))
    assert not plugin.supports_format_combination(3, formats, 3), "the output has the type of value"
    formats[0].desc.format = trt.TensorFormat.CHW16
    assert not plugin.supports_format_combination(0, formats, 3)

    plugin.configure_plugin(dynamic, [])
    copy = plugin.clone()
    assert copy.get_workspace_size(dynamic, []) == 0
    fields = copy.get_fields_to_serialize()
    plugin.get_fields_to_serialize()
    assert [node for node, _ in plugins.serialized.values()] == [node], "one layer, however often it is written"
    instances = instances_of(node, 8, torch.float16)
    ((_, code),) = plugins.serialized.values()
    assert code.images.keys() == {(instance.name, "sm_90") for instance in instances}

    loaded = create(plugins, node.operator, fields, "RUNTIME").attach_to_context(None)
    written = {field.name: bytes(field.data) for field in fields}
    again = {field.name: bytes(field.data) for field in loaded.get_fields_to_serialize()}
    assert again == written, "an engine that was loaded is written as it was"
    gpu = make_gpu(instances)
    monkeypatch.setattr(plugins_trt.plugin, "driver", lambda: gpu.driver)
    out = torch.full((2, 5, 16), torch.nan, dtype=torch.float16)
    gpu.stage(inputs, [out])
    loaded.enqueue(descriptions, [], [tensor.data_ptr() for tensor in inputs], [out.data_ptr()], 0, 33)
    assert gpu.events()[0].encode("latin1", "ignore").startswith(b"load \x7fELF")
    assert gpu.events()[-1].endswith("on stream 33")
    expected = ms_deform_attn_reference(MSDeformAttnArguments(inputs[0].float(), FLAT, *inputs[1:]))
    torch.testing.assert_close(out.float(), expected, atol=2e-3, rtol=2e-3)
