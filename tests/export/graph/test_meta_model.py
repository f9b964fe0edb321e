import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.components.all import components_of
from export.components.check_inputs import Case
from export.components.component import Tolerances
from export.graph import onnx_graph
from export.graph.external_data import is_external, point_to, without_weights, write_weights
from export.graph.kv_cache import lower_attention
from export.graph.meta_model import Stored, open_meta_model
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision
from export.validate.parity import check
from models import MMInterleaved, uninitialized


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's matrices count as large."""
    monkeypatch.setattr(uninitialized, "LARGE_BYTES", 4096)
    monkeypatch.setattr(onnx_graph, "LARGE_BYTES", 4096)


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that nobody has written could hold the very numbers that another model left there."""
    torch.use_deterministic_algorithms(True)  # with which torch.empty fills its memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("small_is_large", "unwritten_is_nan")
def test_large_weights_are_not_read_and_known(model_dir: Path, unchanged_model: MMInterleaved) -> None:
    model, stored = open_meta_model(model_dir)
    expected = unchanged_model.state_dict()
    num_large = 0
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in stored:
            assert torch.equal(tensor, expected[name]), name
            continue
        num_large += 1
        place = stored[tensor.data_ptr()]
        numbers = np.fromfile(place.file, np.float32, place.length // 4, offset=place.offset)
        np.testing.assert_array_equal(numbers, expected[name].numpy().flatten())
        assert tensor.isnan().all(), f"{name} was read"
    assert num_large > 20
    assert {name for name, _ in model.named_buffers()} == {name for name, _ in unchanged_model.named_buffers()}
    for (name, buffer), other in zip(model.named_buffers(), unchanged_model.buffers(), strict=True):
        assert torch.equal(buffer, other) or buffer.data_ptr() in stored, name


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_large")
def test_a_graph_made_without_its_weights_is_the_model(
    model_dir: Path, cases: dict[str, list[Case]], unchanged_model: MMInterleaved, tmp_path: Path
) -> None:
    model, stored = open_meta_model(model_dir)
    for tensor in model.state_dict().values():
        if tensor.data_ptr() in stored:
            tensor.fill_(torch.nan)  # all alike, and whatever is computed from one of them shows
    proto = lower_attention(to_onnx(components_of(model)["llm"], stored).proto, "trt_split")
    external = [tensor for tensor in proto.graph.initializer if is_external(tensor)]
    llm_weights = {tensor.data_ptr() for tensor in model.language_model.state_dict().values()} & stored.keys()
    read_once = {model.language_model.host.get_input_embeddings().weight.data_ptr()}
    assert len(external) == len(llm_weights - read_once)
    assert len(proto.SerializeToString()) < 200_000

    write_weights(proto, model_dir, tmp_path / "llm.data")
    onnx.save(proto, tmp_path / "llm.onnx")
    onnx.checker.check_model(tmp_path / "llm.onnx", full_check=True)
    results = check(components_of(unchanged_model)["llm"], tmp_path / "llm.onnx", cases["llm"])
    assert all(result.worst <= Tolerances().relative_error for result in results)


def matrix_in_a_checkpoint(tmp_path: Path, dtype: torch.dtype) -> tuple[onnx.ModelProto, torch.Tensor]:
    """logits = hidden_states @ weight.T, with the weight in a safetensors file, and the weight."""
    weight = torch.linspace(-3, 3, 20).view(4, 5).to(dtype)
    file = tmp_path / "model.safetensors"
    save_file({"weight": weight, "other": torch.ones(3)}, file)
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])["weight"]
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little") + header["data_offsets"][0]
    tensor = numpy_helper.from_array(np.zeros((4, 5), np.float32), "weight")
    point_to(tensor, Stored(file, start, weight.nbytes, header["dtype"]))
    ports = [
        helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, [2, 5]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 4]),
    ]
    nodes = [
        helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden_states", "turned"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), weight


@pytest.mark.parametrize("stored_as", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_numbers_take_the_type_of_the_graph_on_their_way(
    tmp_path: Path, stored_as: torch.dtype, precision: str
) -> None:
    proto, weight = matrix_in_a_checkpoint(tmp_path, stored_as)
    assert len(without_weights(proto).graph.input) == 2
    lowered = lower_precision(proto, precision)
    write_weights(lowered, tmp_path, tmp_path / "small.data")
    onnx.save(lowered, tmp_path / "small.onnx")
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    (tensor,) = onnx.load(tmp_path / "small.onnx").graph.initializer
    dtype = getattr(torch, precision)
    assert tensor.data_type == helper.np_dtype_to_tensor_dtype(numpy_helper.to_array(tensor).dtype)
    assert (tmp_path / "small.data").stat().st_size == weight.numel() * dtype.itemsize
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), weight.to(dtype).float().numpy())


def test_a_checkpoint_that_was_cut_is_said(tmp_path: Path) -> None:
    proto, _ = matrix_in_a_checkpoint(tmp_path, torch.float32)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-90])
    with pytest.raises(ValueError, match="ends in the middle of a tensor"):
        write_weights(proto, tmp_path, tmp_path / "small.data")


def test_a_model_that_does_not_fit_is_refused(model_dir: Path, tmp_path: Path) -> None:
    model = MMInterleaved.from_pretrained(model_dir)
    model.save_pretrained(tmp_path)
    smaller = dataclasses.replace(
        model.config, language_model=dataclasses.replace(model.config.language_model, mmfs_every=2)
    )
    smaller.save(tmp_path / "config.json")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="does not fit the configuration beside it"):
        open_meta_model(tmp_path)
