"""The custom operators of onnxruntime: what they compute that tests/plugins_trt/test_onnx_function.py does not ask,
threads, errors, and how they are found and refused."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

import mmfs.onnxruntime
from mmfs import compiled
from onnx_models import one_node_model, run_bound, typed

pytestmark = pytest.mark.skipif(
    mmfs.onnxruntime.why_not() is not None, reason="this installation has no custom operators for onnxruntime"
)

SHAPES = ((9, 12), (4, 6), (2, 3))
FLAT_SHAPES = [side for pair in SHAPES for side in pair]
S = sum(h * w for h, w in SHAPES)
B, Q, N, H, D, L, P, A = 2, 70, 3, 4, 24, len(SHAPES), 4, 2
NULL = {"null_logit": 0.25, "use_null": 1}


def mmfs_attention_inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    ends = torch.randint(0, N + 1, (B, Q, 2), generator=generator)
    return {
        "value": normal(N, S, H, D),
        "reference_points": torch.rand(B, Q, 2, generator=generator).to(dtype),
        "sampling_offsets": 0.2 * normal(B, Q, H, P, 2),
        "attention_logits": normal(B, Q, H, L, P),
        "visible": ends.sort(-1).values,
        "offset_table": 0.1 * normal(A, H, P, 2),
        "logit_table": normal(A, H, L, P),
        "null_value": normal(H, D),
    }


def mmfs_attention_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """The reference, in float64."""
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    return mmfs.mmfs_attention(wide.pop("value"), SHAPES, **wide, null_logit=0.25, backend="reference")


def session_of(model: ModelProto, num_threads: int = 1, **entries: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # errors are raised; onnxruntime would print them too
    mmfs.onnxruntime.register(options)
    for key, entry in entries.items():
        options.add_session_config_entry(f"mmfs.{key}", entry)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("coordinates", [torch.float32, None], ids=["float32 coordinates", "one type"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.float64, 1e-13), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
    ids=str,
)
def test_values_of_every_type_are_as_exact_as_their_rounding(
    dtype: torch.dtype, tolerance: float, coordinates: torch.dtype | None
) -> None:
    inputs = mmfs_attention_inputs(dtype)
    if coordinates is not None:
        named = ("reference_points", "sampling_offsets", "attention_logits", "offset_table", "logit_table")
        inputs |= {name: inputs[name].to(coordinates) for name in named}
    bare = one_node_model("MMFS", mmfs_attention_inputs(), spatial_shapes=FLAT_SHAPES, **NULL)
    out = torch.full((B, Q, H * D), torch.nan, dtype=dtype)
    run_bound(session_of(typed(bare, inputs)), inputs, out)
    exact = mmfs_attention_of(inputs)
    assert (out.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_the_result_is_that_of_the_op_in_pytorch_and_its_bits_do_not_depend_on_threads() -> None:
    inputs = mmfs_attention_inputs()
    model = one_node_model("MMFS", inputs, spatial_shapes=FLAT_SHAPES, **NULL)
    expected = mmfs.mmfs_attention(
        inputs["value"], SHAPES, **{name: part for name, part in inputs.items() if name != "value"}, null_logit=0.25
    )
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    (first,) = session_of(model).run(None, feeds)
    torch.testing.assert_close(torch.from_numpy(first), expected)
    for num_threads, entry in ((1, "7"), (2, "2"), (3, "1024")):
        session = session_of(model, num_threads, intra_op_num_threads=entry)
        (out,) = session.run(None, feeds)
        assert np.array_equal(out, first), (num_threads, entry)


@pytest.mark.parametrize("entry", ["0", "-1", "two", "1025", "", "9" * 30])
def test_a_number_of_threads_that_cannot_be_is_refused(entry: str) -> None:
    model = one_node_model("MMFS", mmfs_attention_inputs(), spatial_shapes=FLAT_SHAPES, **NULL)
    with pytest.raises(Exception, match=r"entry mmfs.intra_op_num_threads is '.*'. Expected a whole number from 1 to"):
        session_of(model, intra_op_num_threads=entry)


@pytest.mark.parametrize(
    ("name", "amend", "sentence"),
    [
        ("value", lambda t: t[:, :, 0], r"have the shapes \[3, 138, 24\] and .* Expected 4 and 5 axes"),
        ("value", lambda t: t[..., :0], r"null_value of MMFS has the shape \[4, 24\]. Expected \[4, 0\]"),
        ("reference_points", lambda t: t[:1], r"reference_points of MMFS has the shape \[1, 70, 2\]. Expected \[2, 70"),
        (
            "sampling_offsets",
            lambda t: t[..., :1],
            r"sampling_offsets .* \[2, 70, 4, 4, 1\]. Expected \[2, 70, 4, 4, 2\]",
        ),
        ("attention_logits", lambda t: t[:, :, :, :2], r"logit_table of MMFS has the shape \[2, 4, 3, 4\]"),
        ("visible", lambda t: t[:, :-1], r"visible of MMFS has the shape \[2, 69, 2\]. Expected \[2, 70, 2\]"),
        ("visible", lambda t: t + N, r"beyond the 3 images of value. Expected 0 <= first <= last <= 3"),
        (
            "offset_table",
            lambda t: t[:0],
            r"offset_table of MMFS has the shape \[0, 4, 4, 2\]. Expected \[1, 4, 4, 2\]",
        ),
        ("null_value", lambda t: t.T, r"null_value of MMFS has the shape \[24, 4\]. Expected \[4, 24\]"),
    ],
)
def test_wrong_sizes_are_sentences(name: str, amend, sentence: str) -> None:
    inputs = mmfs_attention_inputs()
    inputs["visible"] = inputs["visible"].clamp(max=2) + torch.tensor([0, 1])
    anything = one_node_model("MMFS", inputs, spatial_shapes=FLAT_SHAPES, **NULL)
    for value in anything.graph.input:
        value.type.tensor_type.ClearField("shape")
    session = session_of(anything)
    feeds = {key: tensor.numpy() for key, tensor in inputs.items()}
    (right,) = session.run(None, feeds)
    with pytest.raises(Exception, match=sentence):
        session.run(None, feeds | {name: np.ascontiguousarray(amend(inputs[name]).numpy())})
    (again,) = session.run(None, feeds)
    assert np.array_equal(right, again)


@pytest.mark.parametrize("sizes", [[], [9], [9, 12, 4, 6], [9, 12, 4, 6, 2, -3], [0, 138, 4, 6, 2, 3], [2**40, 2**40]])
def test_sizes_of_levels_that_cannot_be_are_sentences(sizes: list[int]) -> None:
    inputs = mmfs_attention_inputs()
    model = one_node_model("MMFS", inputs, spatial_shapes=FLAT_SHAPES, **NULL)
    (attribute,) = [one for one in model.graph.node[0].attribute if one.name == "spatial_shapes"]
    model.graph.node[0].attribute.remove(attribute)
    model.graph.node[0].attribute.append(
        helper.make_attribute("spatial_shapes", sizes, attr_type=onnx.AttributeProto.INTS)
    )
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    with pytest.raises(
        Exception, match=r"spatial_shapes of MMFS is \[.*\]. Expected a height and a width for each of 3"
    ):
        session_of(model).run(None, feeds)


def test_a_type_that_no_kernel_has_is_a_sentence() -> None:
    inputs = mmfs_attention_inputs()
    whole = inputs | {"value": inputs["value"].long()}
    with pytest.raises(Exception, match=r"value has elements of ONNX type 7. Expected float32, float16, bfloat16"):
        session_of(one_node_model("MMFS", whole, spatial_shapes=FLAT_SHAPES, **NULL)).run(
            None, {name: tensor.numpy() for name, tensor in whole.items()}
        )
    fractions = inputs | {"visible": inputs["visible"].float()}
    with pytest.raises(Exception, match=r"visible has elements of ONNX type 1. Expected int64 or int32"):
        session_of(one_node_model("MMFS", fractions, spatial_shapes=FLAT_SHAPES, **NULL)).run(
            None, {name: tensor.numpy() for name, tensor in fractions.items()}
        )


def test_the_shape_of_the_output_is_known_before_anything_runs() -> None:
    """B and Q keep the graph's names, heads times channels are multiplied, and the type is that of value."""
    inputs = mmfs_attention_inputs()
    model = one_node_model("MMFS", inputs, spatial_shapes=FLAT_SHAPES, **NULL)
    for value in model.graph.input:
        if value.name == "value":
            for place, size in ((2, H), (3, D)):
                value.type.tensor_type.shape.dim[place].dim_value = size
    model.graph.output[0].type.Clear()
    (output,) = session_of(model).get_outputs()
    assert output.shape == ["attention_logits_0", "attention_logits_1", H * D]
    assert output.type == "tensor(float)"


def test_a_registered_operator_is_preferred_to_the_body_of_the_file() -> None:
    """The body here is wrong on purpose: it returns zeros."""
    inputs = mmfs_attention_inputs()
    model = one_node_model("MMFS", inputs, spatial_shapes=FLAT_SHAPES, **NULL)
    zeros = numpy_helper.from_array(np.zeros((1, 1, 1), np.float32))
    body = helper.make_function(
        "mmfs",
        "MMFS",
        list(inputs),
        ["out"],
        [helper.make_node("Constant", [], ["out"], value=zeros)],
        [helper.make_opsetid("", 18)],
        attributes=[attribute.name for attribute in model.graph.node[0].attribute],
    )
    model.functions.append(body)
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    by_body = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert not by_body.run(None, feeds)[0].any()
    exact = mmfs_attention_of(inputs)
    out = torch.from_numpy(session_of(model).run(None, feeds)[0])
    assert (out.double() - exact).abs().max() <= 2e-6 * exact.abs().max()


# ---------------------------------------------------------------------------------------------------------------------
# Finding and refusing


def test_the_library_is_that_of_the_kernel_which_pytorch_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert mmfs.onnxruntime.library_path().name == f"_onnxruntime_{compiled.best_instruction_set()}.so"
    monkeypatch.setattr(mmfs.onnxruntime, "FOLDER", tmp_path)
    reason = mmfs.onnxruntime.why_not()
    assert reason is not None
    assert "has no custom operators for onnxruntime, _onnxruntime_" in reason
    with pytest.raises(OSError, match="no C\\+\\+ compiler was found"):
        mmfs.onnxruntime.register(onnxruntime.SessionOptions())


def test_an_older_onnxruntime_is_refused_with_a_sentence() -> None:
    """A stand-in for onnxruntime 1.23, which has tables up to version 23, of which one function is asked."""
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    version = ctypes.create_string_buffer(b"1.23.2")
    said: list[tuple[int, bytes]] = []

    def remember(code: int, message: bytes) -> int:
        said.append((code, message))
        return 1

    table = (create_status * 1)(create_status(remember))
    functions = (
        get_api(lambda number: ctypes.addressof(table) if number < 24 else 0),
        get_version(lambda: ctypes.addressof(version)),
    )

    class ApiBase(ctypes.Structure):
        _fields_ = (("get_api", get_api), ("get_version", get_version))

    library = ctypes.CDLL(str(mmfs.onnxruntime.library_path()))
    library.RegisterCustomOps.restype = ctypes.c_void_p
    assert library.RegisterCustomOps(None, ctypes.byref(ApiBase(*functions))) == 1
    ((code, message),) = said
    assert code == 9
    assert b"need onnxruntime 1.24 or newer; this is 1.23.2. Upgrade it" in message


def test_the_module_costs_nothing_but_mmfs() -> None:
    program = "import sys, mmfs.onnxruntime; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
