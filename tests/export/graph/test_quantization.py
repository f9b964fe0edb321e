import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from export.graph import external_data
from export.graph.external_data import point_to
from export.graph.float32_nodes import NARROW
from export.graph.kv_cache import lower_attention
from export.graph.meta_model import Stored
from export.graph.onnx_graph import GraphError
from export.graph.precision import lower_precision
from export.graph.quantization import (
    LARGEST,
    QUANTIZED,
    Channels,
    check_quantized_weights,
    large_weights,
    matrices_of,
    weights_of,
    write_quantized,
)
from export.store.entries import quantized_entry
from export.store.job import NEUTRAL_DIR
from export.validate.parity import open_session
from models import MMInterleaved

FLOAT = TensorProto.FLOAT
TINY_FLOAT16 = 6e-8
"""What float16 tells apart at the least, rounded up."""


@pytest.fixture(scope="module")
def llm(exported: Path) -> Callable[[str], ModelProto]:
    """The tiny language model in a precision."""

    def lower(precision: str) -> ModelProto:
        return lower_precision(lower_attention(onnx.load(exported / NEUTRAL_DIR / "llm.onnx"), "trt_split"), precision)

    return lower


def matrix() -> np.ndarray:
    """[6, 40], of very different sizes; a row and a column are zeros."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 40)) * 10.0 ** np.arange(-4, 2)[:, None]
    weight[2] = weight[:, 7] = 0
    return weight.astype(np.float32)


@pytest.mark.parametrize("scale_type", [FLOAT, *NARROW.values()], ids=["float32", *NARROW])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_each_channel_has_its_scale(kind: str, axis: int, scale_type: int) -> None:
    weight, type_ = matrix(), QUANTIZED[kind]
    scales = TensorProto(name="s", data_type=scale_type, dims=[weight.shape[axis]])
    encoder = Channels(TensorProto(data_type=type_, dims=weight.shape), scales, axis)
    pieces = [weight] if axis else [weight[:4], weight[4:]]
    found = np.concatenate([encoder.encode(piece.ravel()) for piece in pieces]).reshape(weight.shape)
    encoder.finish()
    steps = np.expand_dims(numpy_helper.to_array(scales).astype(np.float32), 1 - axis)
    assert found.dtype == helper.tensor_dtype_to_np_dtype(type_)
    error = np.abs(found.astype(np.float32) * steps - weight)
    if kind == "int8":
        assert (error <= 0.51 * steps + TINY_FLOAT16).all()
    else:  # three bits behind the point, down to 2**-6 of a step
        assert (error <= np.abs(weight) * 2**-4 * 1.01 + steps * 2**-10 + TINY_FLOAT16).all()
    assert (found.astype(np.float32)[weight == 0] == 0).all()
    largest = np.abs(found.astype(np.float32)).max(axis=1 - axis)
    assert (largest[np.abs(weight).max(axis=1 - axis) > 0] > 0.97 * LARGEST[type_]).all()


@pytest.mark.parametrize(("kind", "precision"), [("int8", "float32"), ("fp8", "float16"), ("fp8", "bfloat16")])
def test_attention_and_feed_forward_have_eight_bits_and_nothing_else(
    llm: Callable[[str], ModelProto], unchanged_model: MMInterleaved, tmp_path: Path, kind: str, precision: str
) -> None:
    proto = llm(precision)
    before = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    tensors = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    expected = [list(weight.T.shape) for weight in matrices_of(unchanged_model)]
    assert sorted(tensors[name] for name in large_weights(proto.graph)) == sorted(expected)
    assert len(expected) == 2 * 7, "layers, each with four matrices of attention and three of the feed-forward"

    size = len(proto.SerializeToString())
    write_quantized(proto, kind, precision, tmp_path, tmp_path / "llm.data")
    entry, number_bytes = quantized_entry(proto), 4 if precision == "float32" else 2
    num_weights, num_scales = sum(map(math.prod, expected)), sum(shape[1] for shape in expected)
    assert entry.num_matrices == len(expected)
    assert entry.bytes_before == num_weights * number_bytes
    assert entry.bytes_after == num_weights + num_scales * number_bytes
    assert size - len(proto.SerializeToString()) == pytest.approx(entry.bytes_before - entry.bytes_after, rel=0.2)
    after = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert {name: after[name] for name in before if name in after} == {
        name: type_ for name, type_ in before.items() if f"{name}_quantized" not in after
    }
    assert list(after.values()).count(QUANTIZED[kind]) == len(expected)
    assert list(tmp_path.iterdir()) == [], "small weights stay in the graph"


def test_a_weight_of_the_offsets_is_refused_eight_bits(llm: Callable[[str], ModelProto]) -> None:
    proto = llm("float32")
    graph = proto.graph
    (weight, *_) = (tensor for tensor in graph.initializer if list(tensor.dims) == [32, 8])
    numbers = numpy_helper.to_array(weight)
    graph.initializer.extend(
        [
            numpy_helper.from_array((numbers * 10).astype(np.int8), "eight_bits"),
            numpy_helper.from_array(np.float32(0.1), "step"),
        ]
    )
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["eight_bits", "step"], [weight.name]))
    graph.initializer.remove(weight)
    with pytest.raises(GraphError, match=r"of MatMul '.*' comes from a weight of eight bits"):
        check_quantized_weights(graph)


def product(weight: TensorProto, *, turned: bool, output: str = "hidden_states") -> ModelProto:
    """x [2, 40] times a matrix."""
    nodes = [helper.make_node("MatMul", ["x", "turned" if turned else weight.name], [output])]
    if turned:
        nodes.insert(0, helper.make_node("Transpose", [weight.name], ["turned"], perm=[1, 0]))
    ports = [helper.make_tensor_value_info(name, FLOAT, [2, size]) for name, size in (("x", 40), (output, 6))]
    graph = helper.make_graph(nodes, "product", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_weights_of_a_checkpoint_are_read_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    checkpoint.mkdir()
    out.mkdir()
    file = checkpoint / "model.safetensors"
    save_file({"weight": matrix()}, file)
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    weight = TensorProto(name="weight", data_type=FLOAT, dims=[6, 40])
    point_to(weight, Stored(file, start, matrix().nbytes, "F32"))
    elsewhere = product(weight, turned=True)
    inside = product(numpy_helper.from_array(matrix(), "weight"), turned=True)

    monkeypatch.setattr(external_data, "PIECE_BYTES", 4 * 40 * 4 + 5)
    pieces: list[int] = []
    encode = Channels.encode
    monkeypatch.setattr(Channels, "encode", lambda self, piece: [pieces.append(piece.size), encode(self, piece)][1])
    for proto in (elsewhere, inside):
        write_quantized(proto, kind, "float32", checkpoint, out / "llm.data")
    assert pieces == [160, 80, 240], "four rows and two; what is in the graph all at once"
    onnx.save(elsewhere, out / "llm.onnx")
    read = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(out / "llm.onnx").graph.initializer}
    for tensor in inside.graph.initializer:
        np.testing.assert_array_equal(read[tensor.name].view(np.uint8), numpy_helper.to_array(tensor).view(np.uint8))
    assert (out / "llm.data").stat().st_size == 240

    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors ends in the middle of a tensor"):
        write_quantized(product(weight, turned=True), kind, "float32", checkpoint, out / "again.data")


def test_onnxruntime_rounds_weights_and_nothing_else(tmp_path: Path) -> None:
    """Left to itself it would take activations of eight bits as well, and be off by half a percent."""
    proto = product(numpy_helper.from_array(matrix(), "weight"), turned=True)
    write_quantized(proto, "int8", "float32", tmp_path, tmp_path / "product.data")
    onnx.save(proto, tmp_path / "product.onnx")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weight = tensors["weight_quantized"] * tensors["weight_scale"][:, None]
    x = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    (found,) = open_session(tmp_path / "product.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, x @ weight.T, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_quantized_is_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(matrix().T.copy(), "weight")
    with pytest.raises(GraphError, match="no products of attention or feed-forward"):
        write_quantized(product(weight, turned=False, output="logits"), "int8", "float32", tmp_path, tmp_path / "w")
    point_to(weight, Stored(tmp_path / "file", 0, matrix().nbytes, "F32"))
    with pytest.raises(GraphError, match=r"weight is multiplied as it is stored; expected \[outputs, inputs\]"):
        write_quantized(product(weight, turned=False), "int8", "float32", tmp_path, tmp_path / "w")


def test_only_the_language_model_is_quantized() -> None:
    assert weights_of("llm", "fp8") == "fp8"
    assert weights_of("unet_mmfs", "fp8") == "same"
