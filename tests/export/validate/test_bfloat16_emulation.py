import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from export.validate.bfloat16_emulation import rounded_float32


def test_it_rounds_where_bfloat16_would(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    # Whole numbers: float32 adds their products up without an error, in whatever order a processor takes them.
    x, weight = (torch.randint(-16, 17, (64, 64), generator=generator).bfloat16() for _ in range(2))
    ports = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [64, 64]) for name in ("x", "y")]
    stored = numpy_helper.from_array(
        weight.float().numpy().astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    )
    stored.name = "weight"
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], [stored])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)

    session = onnxruntime.InferenceSession(rounded_float32(proto).SerializeToString())
    (found,) = session.run(None, {"x": x.float().numpy()})
    expected = (x.float() @ weight.float()).bfloat16() + x
    np.testing.assert_array_equal(found, expected.float().numpy())
    assert not np.array_equal(found, (x.float() @ weight.float() + x.float()).numpy())
