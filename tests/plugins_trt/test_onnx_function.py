"""The mmfs nodes in onnxruntime on the CPU, by their bodies and by the custom operators, against the reference in
float64, on hand-made models of one node."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from onnx import ModelProto, helper

import mmfs.onnxruntime
from mmfs import mmfs_attention, ms_deform_attn
from onnx_models import one_node_model
from onnx_models import run as run_model
from op_cases import image_lists_case
from plugins_trt.node_contract import INPUTS
from plugins_trt.onnx_function import OPSETS, attach_functions

# Letters as in plugins_trt/onnx_function.py. No square level, and more columns than rows, so that no swap goes unseen.
SHAPES = ((5, 7), (3, 4), (1, 2))
FLAT_SHAPES = [side for pair in SHAPES for side in pair]
S = sum(h * w for h, w in SHAPES)
H, D, P, L, A = 3, 5, 4, len(SHAPES), 4

Tensors = dict[str, torch.Tensor]
Run = Callable[[ModelProto, Tensors], torch.Tensor]


@pytest.fixture(params=["body", "custom operator"])
def by(request: pytest.FixtureRequest) -> str:
    """Who computes the nodes."""
    if request.param == "custom operator" and (reason := mmfs.onnxruntime.why_not()):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def run(by: str) -> Run:
    return lambda model, inputs: run_model(model, inputs, custom_operators=by == "custom operator")


def one_node(op_type: str, inputs: Tensors, *, opset: int = 18, **attributes: object) -> ModelProto:
    return one_node_model(op_type, inputs, opset=opset, **{"spatial_shapes": FLAT_SHAPES} | attributes)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def to(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def ms_deform_attn_inputs(batch: int, num_queries: int, seed: int = 0) -> Tensors:
    """float32 values in float64, with locations inside, outside, far outside and not finite."""
    generator = torch.Generator().manual_seed(seed)
    locations = torch.rand(batch, num_queries, H, L, P, 2, generator=generator) * 1.8 - 0.4
    if locations.numel():
        locations[0, 0, 0, 0, 0, 0] = torch.nan
        locations[0, 0, 0, 1, 0, 1] = torch.inf
        locations[0, 0, 1, 0, 0, 0] = -torch.inf
        locations[0, 0, 2, 0, 0] = 3e30
    return {
        "value": torch.randn(batch, S, H, D, generator=generator).double(),
        "sampling_locations": locations.double(),
        "attention_weights": torch.randn(batch, num_queries, H, L, P, generator=generator).double(),
    }


def mmfs_attention_inputs(batch: int, num_queries: int, num_images: int, seed: int = 0) -> Tensors:
    """float32 values in float64. The last query sees nothing, the first all images, even those older than A."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    points = torch.rand(batch, num_queries, 2, generator=generator).double() * 1.6 - 0.3
    offsets = 0.2 * normal(batch, num_queries, H, P, 2)
    ends = torch.randint(0, num_images + 1, (batch, num_queries, 2), generator=generator)
    visible = ends.sort(-1).values
    if num_queries:
        visible[0, 0] = torch.tensor([0, num_images])
        offsets[0, 0, 0, 0, 0] = torch.nan
        offsets[0, 0, 1, 1, 1] = torch.inf
        offsets[0, 0, 2, 2] = 3e30
        visible[-1, -1] = num_images
    return {
        "value": normal(num_images, S, H, D),
        "reference_points": points,
        "sampling_offsets": offsets,
        "attention_logits": 3 * normal(batch, num_queries, H, L, P),
        "visible": visible,
        "offset_table": 0.1 * normal(A, H, P, 2),
        "logit_table": normal(A, H, L, P),
        "null_value": normal(H, D),
    }


def reference_of_ms_deform_attn(inputs: Tensors) -> torch.Tensor:
    return ms_deform_attn(
        inputs["value"], SHAPES, inputs["sampling_locations"], inputs["attention_weights"], backend="reference"
    )


def reference_of_mmfs_attention(inputs: Tensors, null_logit: float | None) -> torch.Tensor:
    named = dict(inputs)
    return mmfs_attention(named.pop("value"), SHAPES, **named, null_logit=null_logit, backend="reference")


def null_attributes(null_logit: float | None) -> dict[str, object]:
    return {"null_logit": null_logit or 0.0, "use_null": int(null_logit is not None)}


@pytest.mark.parametrize("opset", OPSETS)
def test_both_bodies_pass_the_checker_and_equal_the_reference_in_every_opset(run, opset):
    ms_deform_attn = ms_deform_attn_inputs(2, 3)
    model = attach_functions(one_node("MSDeformAttn", to(ms_deform_attn, torch.float32), opset=opset))
    onnx.checker.check_model(model, full_check=True)
    assert (
        relative_error(run(model, to(ms_deform_attn, torch.float32)), reference_of_ms_deform_attn(ms_deform_attn))
        < 2e-6
    )

    mmfs_attention = mmfs_attention_inputs(2, 3, 6)
    model = attach_functions(one_node("MMFS", to(mmfs_attention, torch.float32), opset=opset, **null_attributes(0.5)))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.version for function in model.functions for entry in function.opset_import if not entry.domain} == {
        opset
    }
    assert (
        relative_error(run(model, to(mmfs_attention, torch.float32)), reference_of_mmfs_attention(mmfs_attention, 0.5))
        < 2e-6
    )


@pytest.mark.parametrize("null_logit", [0.0, -1.5, 40.0, None])
@pytest.mark.parametrize(("batch", "num_queries", "num_images"), [(1, 1, 1), (3, 5, 7), (2, 4, 2)])
def test_mmfs_equals_the_reference_at_any_size(run, batch, num_queries, num_images, null_logit):
    inputs = mmfs_attention_inputs(batch, num_queries, num_images, seed=num_images)
    single = to(inputs, torch.float32)
    model = attach_functions(one_node("MMFS", single, **null_attributes(null_logit)))
    out = run(model, single)
    assert relative_error(out, reference_of_mmfs_attention(inputs, null_logit)) < 2e-6
    nothing_visible = inputs["visible"][..., 0] == inputs["visible"][..., 1]
    expected = single["null_value"].flatten().expand(int(nothing_visible.sum()), -1)
    assert len(expected)
    assert torch.equal(out[nothing_visible], expected)


def test_an_empty_bank_gives_null_value_and_no_query_gives_nothing(run):
    for num_images, num_queries in ((0, 3), (4, 0), (0, 0)):
        inputs = to(mmfs_attention_inputs(2, num_queries, num_images), torch.float32)
        out = run(attach_functions(one_node("MMFS", inputs, **null_attributes(0.0))), inputs)
        assert out.shape == (2, num_queries, H * D)
        if num_images == 0:
            assert torch.equal(out, inputs["null_value"].flatten().expand(2, num_queries, -1))
    for batch, num_queries in ((2, 0), (0, 3)):
        inputs = to(ms_deform_attn_inputs(batch, num_queries), torch.float32)
        assert run(attach_functions(one_node("MSDeformAttn", inputs)), inputs).shape == (batch, num_queries, H * D)


def test_an_image_that_no_query_sees_may_hold_anything(run):
    inputs = mmfs_attention_inputs(2, 4, 5)
    inputs["visible"] = inputs["visible"].clamp(1, 3)
    want = reference_of_mmfs_attention(inputs, 0.0)
    inputs["value"][0] = torch.nan
    inputs["value"][3:] = torch.inf
    single = to(inputs, torch.float32)
    assert relative_error(run(attach_functions(one_node("MMFS", single, **null_attributes(0.0))), single), want) < 2e-6


OTHER_SIZES = {
    "body": "cannot be reshaped",
    "custom operator": r"spatial_shapes of \w+ is \[.*\]. Expected a height and",
}
LOWEST, HIGHEST = -(2**63), 2**63 - 1


def test_a_range_beyond_the_bank_gives_nan_and_an_empty_one_null_value(run, by):
    """As the CUDA kernels: neither can raise, and the other queries stay as they are. The custom operator can."""
    inputs = mmfs_attention_inputs(1, 4, 3)
    empty = [(3, 3), (9, 9), (1, LOWEST), (HIGHEST, LOWEST), (LOWEST, LOWEST), (0, 1 - 2**32), (-1, -1)]
    beyond = [(-1, 2), (0, 4), (3, 9), (LOWEST, 0), (LOWEST, HIGHEST), (-(2**32), 2), (2**31, 2**32), (0, HIGHEST)]
    for null_logit in (0.5, None):
        model = None
        for first, last in empty + beyond:
            inputs["visible"][0, 1] = torch.tensor([first, last])
            single = to(inputs, torch.float32)
            model = model or attach_functions(one_node("MMFS", single, **null_attributes(null_logit)))
            if by == "custom operator" and (first, last) in beyond:
                with pytest.raises(Exception, match="visible of MMFS holds a range that reaches beyond the 3 images"):
                    run(model, single)
                continue
            out = run(model, single)
            others = torch.tensor([0, 2, 3])
            if (first, last) in empty:
                assert torch.equal(out[0, 1], single["null_value"].flatten()), (first, last)
            else:
                assert out[0, 1].isnan().all(), (first, last)
                single["visible"][0, 1] = 0
            want = reference_of_mmfs_attention(to(single, torch.float64), null_logit)
            assert relative_error(out[:, others], want[:, others]) < 2e-6


def test_a_sample_that_touches_no_pixel_has_no_effect_whatever_its_weight(run):
    inputs = to(ms_deform_attn_inputs(2, 3), torch.float32)
    inputs["sampling_locations"][:, 1, :, 0, 1] = torch.tensor([1.4, 0.5])
    want = reference_of_ms_deform_attn(to(inputs, torch.float64))
    for bad in (torch.nan, torch.inf):
        inputs["attention_weights"][:, 1, :, 0, 1] = bad
        assert relative_error(run(attach_functions(one_node("MSDeformAttn", inputs)), inputs), want) < 2e-6


def test_without_null_a_query_without_weights_gets_null_value(run):
    """Its images have no points, or its logits are all minus infinity."""
    inputs = mmfs_attention_inputs(1, 4, 3)
    inputs["attention_logits"][0, 0] = -torch.inf
    want = reference_of_mmfs_attention(inputs, None)
    assert torch.equal(want[0, 0], inputs["null_value"].flatten())
    single = to(inputs, torch.float32)
    assert relative_error(run(attach_functions(one_node("MMFS", single, **null_attributes(None))), single), want) < 2e-6
    no_points = {
        name: part[..., :0, :] for name, part in single.items() if name in ("sampling_offsets", "offset_table")
    }
    no_points |= {name: part[..., :0] for name, part in single.items() if name in ("attention_logits", "logit_table")}
    none = single | no_points
    out = run(attach_functions(one_node("MMFS", none, **null_attributes(None))), none)
    assert torch.equal(out, single["null_value"].flatten().expand(1, 4, -1))


def test_large_logits_do_not_overflow(run):
    inputs = mmfs_attention_inputs(2, 4, 3)
    inputs["attention_logits"] *= 100
    single = to(inputs, torch.float32)
    model = attach_functions(one_node("MMFS", single, **null_attributes(0.0)))
    assert (
        relative_error(run(model, single), reference_of_mmfs_attention(inputs, 0.0)) < 1e-4
    )  # float32 holds 500 to 3e-5


@pytest.mark.parametrize("coordinates", [torch.float16, torch.float32])
def test_half_graphs_lose_only_the_rounding_of_their_inputs_and_output(run, coordinates):
    inputs = to(mmfs_attention_inputs(2, 4, 3), torch.float16)
    for name in ("reference_points", "sampling_offsets", "offset_table"):
        inputs[name] = inputs[name].to(coordinates)
    inputs["sampling_offsets"] = inputs["sampling_offsets"].nan_to_num(2.0, 2.0, -2.0)  # 3e30 is not finite in float16
    exact = reference_of_mmfs_attention(to(inputs, torch.float64), 0.0)
    own_error = relative_error(reference_of_mmfs_attention(inputs, 0.0), exact)
    out = run(attach_functions(one_node("MMFS", inputs, **null_attributes(0.0))), inputs)
    assert out.dtype == torch.float16
    assert relative_error(out, exact) <= 1.5 * own_error

    inputs = ms_deform_attn_inputs(2, 4)
    inputs = {name: t.to(coordinates if name == "sampling_locations" else torch.float16) for name, t in inputs.items()}
    exact = reference_of_ms_deform_attn(to(inputs, torch.float64))
    own_error = relative_error(reference_of_ms_deform_attn(inputs), exact)
    out = run(attach_functions(one_node("MSDeformAttn", inputs)), inputs)
    assert out.dtype == torch.float16
    assert relative_error(out, exact) <= 1.5 * own_error


def test_visible_may_be_int32(run):
    inputs = mmfs_attention_inputs(2, 3, 4)
    single = to(inputs, torch.float32) | {"visible": inputs["visible"].int()}
    model = attach_functions(one_node("MMFS", single, **null_attributes(0.0)))
    assert relative_error(run(model, single), reference_of_mmfs_attention(inputs, 0.0)) < 2e-6


def image_lists_inputs(operator_dtype: torch.dtype = torch.float64, **options: bool) -> Tensors:
    case = image_lists_case(SHAPES, num_heads=H, dim=D, num_points=P, num_ages=A, **options)
    lists = case.rest["image_indices"]
    named = to(case.tensors, operator_dtype) | {"image_indices": lists}
    return {name: named[name] for name in INPUTS["MMFSImageLists"]}


@pytest.mark.parametrize("null_logit", [0.5, None])
@pytest.mark.parametrize(
    "options", [{}, {"points_by_level": True}, {"points_by_sample": True, "offsets_by_level": True}], ids=str
)
def test_lists_of_images_equal_the_reference(run, options, null_logit):
    inputs = image_lists_inputs(**options)
    single = to(inputs, torch.float32)
    model = attach_functions(one_node("MMFSImageLists", single, **null_attributes(null_logit)))
    onnx.checker.check_model(model, full_check=True)
    out = run(model, single)
    assert relative_error(out, reference_of_mmfs_attention(inputs, null_logit)) < 2e-6
    nothing = (inputs["image_indices"] == -1).all(-1)
    assert torch.equal(out[nothing], single["null_value"].flatten().expand(int(nothing.sum()), -1))
    assert nothing.any()


def test_lists_of_other_sizes_and_types(run):
    inputs = image_lists_inputs(torch.float16)
    exact = reference_of_mmfs_attention(to(inputs, torch.float64), 0.0)
    own_error = relative_error(reference_of_mmfs_attention(inputs, 0.0), exact)
    given = inputs | {"image_indices": inputs["image_indices"].int()}
    model = attach_functions(one_node("MMFSImageLists", given, **null_attributes(0.0)))
    assert relative_error(run(model, given), exact) <= 1.5 * own_error
    empty = given | {name: given[name][:, :, :0] for name in ("image_indices", "reference_points")}
    torch.testing.assert_close(run(model, empty), inputs["null_value"].flatten().expand(2, 5, -1))
    no_bank = given | {"value": given["value"][:0], "image_indices": given["image_indices"] * 0 - 1}
    torch.testing.assert_close(run(model, no_bank), inputs["null_value"].flatten().expand(2, 5, -1))


@pytest.mark.parametrize("wrong", [-2, 6, 2**31, HIGHEST, LOWEST])
def test_a_list_with_an_image_beyond_the_bank_gives_nan(run, by, wrong):
    inputs = image_lists_inputs()
    inputs["image_indices"][0, 1, 2] = wrong
    single = to(inputs, torch.float32)
    model = attach_functions(one_node("MMFSImageLists", single, **null_attributes(0.5)))
    if by == "custom operator":
        with pytest.raises(Exception, match="image_indices of MMFSImageLists holds an image that is not among the 6"):
            run(model, single)
        return
    out = run(model, single)
    assert out[0, 1].isnan().all()
    inputs["image_indices"][0, 1] = -1
    want = reference_of_mmfs_attention(inputs, 0.5)
    assert relative_error(out[0, [0, 2, 3, 4]], want[0, [0, 2, 3, 4]]) < 2e-6
    assert relative_error(out[1], want[1]) < 2e-6


def dynamic_node(op_type: str, inputs: Tensors, **attributes: object) -> ModelProto:
    """With the sizes as the last input."""
    given = inputs | {"spatial_shapes": torch.tensor(SHAPES)}
    model = attach_functions(one_node_model(f"Dynamic{op_type}", given, plugin=False, **attributes))
    onnx.checker.check_model(model, full_check=True)
    return model


def test_sizes_as_an_input_are_the_same_as_sizes_as_an_attribute(run):
    sizes = {"spatial_shapes": torch.tensor(SHAPES)}
    inputs = ms_deform_attn_inputs(2, 4)
    single = to(inputs, torch.float32)
    out = run(dynamic_node("MSDeformAttn", single), single | sizes)
    assert relative_error(out, reference_of_ms_deform_attn(inputs)) < 2e-6
    inputs = mmfs_attention_inputs(2, 3, 4)
    single = to(inputs, torch.float32)
    for null_logit in (0.7, None):
        out = run(dynamic_node("MMFS", single, **null_attributes(null_logit)), single | sizes)
        assert relative_error(out, reference_of_mmfs_attention(inputs, null_logit)) < 2e-6


@pytest.mark.parametrize("op_type", ["MSDeformAttn", "MMFS"])
@pytest.mark.parametrize("num_pixels", [S - 1, S + 1])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_value_of_other_sizes_is_an_error(run: Run, by: str, op_type: str, num_pixels: int, dynamic: bool):
    """A program that was traced for images of one size, and is given one of another."""
    inputs = mmfs_attention_inputs(2, 3, 4) if op_type == "MMFS" else ms_deform_attn_inputs(2, 3)
    inputs = to(inputs, torch.float32)
    inputs["value"] = torch.randn(inputs["value"].shape[0], num_pixels, H, D)
    attributes = null_attributes(0.0) if op_type == "MMFS" else {}
    if dynamic:
        model, inputs = dynamic_node(op_type, inputs, **attributes), inputs | {"spatial_shapes": torch.tensor(SHAPES)}
    else:
        model = attach_functions(one_node(op_type, inputs, **attributes))
    with pytest.raises(Exception, match=OTHER_SIZES[by]):
        run(model, inputs)


@pytest.mark.parametrize(
    "sizes",
    [
        [[-5, -7], [3, 4], [1, 2]],  # S pixels, if nobody looks at the signs
        [[2**32, 2**32], [5, 9], [1, 4]],  # S pixels in 64 bits, where the first level has none
        [[2**31, 2**31], [2**31, 2**31], [S, 1]],
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_an_error_as_an_input(run: Run, by: str, sizes: list[list[int]]):
    inputs = to(ms_deform_attn_inputs(2, 3), torch.float32)
    model = dynamic_node("MSDeformAttn", inputs)
    with pytest.raises(Exception, match=OTHER_SIZES[by]):
        run(model, inputs | {"spatial_shapes": torch.tensor(sizes)})


def test_attaching_twice_changes_nothing_and_attaches_only_what_occurs():
    model = attach_functions(one_node("MSDeformAttn", to(ms_deform_attn_inputs(1, 1), torch.float32)))
    names = ["BilinearCorner", "BilinearSum", "DynamicMSDeformAttn", "MSDeformAttn"]
    assert sorted(function.name for function in model.functions) == names
    once = model.SerializeToString()
    assert attach_functions(model).SerializeToString() == once
    bodies = {function.name: function for function in model.functions}
    declared = {attribute.name: attribute.s for attribute in bodies["MSDeformAttn"].attribute_proto}
    assert declared == {"plugin_namespace": b"mmfs", "plugin_version": b"1"}
    assert not any(node.op_type == "GridSample" for body in model.functions for node in body.node)


def test_a_node_inside_a_subgraph_is_found(run):
    inputs = to(ms_deform_attn_inputs(1, 2), torch.float32)
    model = one_node("MSDeformAttn", inputs)
    branch = helper.make_graph(list(model.graph.node), "branch", [], list(model.graph.output))
    condition = helper.make_node("Constant", [], ["condition"], value=helper.make_tensor("c", 9, [], [True]))
    choice = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    del model.graph.node[:]
    model.graph.node.extend([condition, choice])
    model.graph.output[0].name = "chosen"
    assert "MSDeformAttn" in {function.name for function in attach_functions(model).functions}
    assert relative_error(run(model, inputs), reference_of_ms_deform_attn(to(inputs, torch.float64))) < 2e-6


def test_a_model_without_mmfs_nodes_stays_as_it_is():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "relu",
            [helper.make_tensor_value_info("x", 1, [2])],
            [helper.make_tensor_value_info("y", 1, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    before = model.SerializeToString()
    assert attach_functions(model).SerializeToString() == before


def test_wrong_models_are_refused_with_a_sentence():
    inputs = to(ms_deform_attn_inputs(1, 1), torch.float32)
    with pytest.raises(ValueError, match=r"version 17 of the standard ONNX operators. Expected 18 to 24"):
        attach_functions(one_node("MSDeformAttn", inputs, opset=17))
    with pytest.raises(
        ValueError, match=r"named \['DeformAttn'\]; the domain holds .*'MMFS', 'MMFSImageLists', 'MSDeformAttn'"
    ):
        attach_functions(one_node("DeformAttn", inputs))


def test_without_its_body_a_node_needs_the_custom_operator(run, by):
    inputs = to(ms_deform_attn_inputs(1, 1), torch.float32)
    model = one_node("MSDeformAttn", inputs)
    if by == "custom operator":
        assert relative_error(run(model, inputs), reference_of_ms_deform_attn(to(inputs, torch.float64))) < 2e-6
    else:
        with pytest.raises(Exception, match="MSDeformAttn"):
            run(model, inputs)
