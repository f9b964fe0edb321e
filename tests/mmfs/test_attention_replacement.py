"""mmfs' op in models of transformers and out of them again: eight models, small and with random weights."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import mmfs.onnxruntime
from bench.transformers_models import MODELS, SMALL, Case, make
from mmfs import attention_replacement
from mmfs.transformers_models import core_v2, pixel_decoder, rt_detr_v2
from numerics import assert_within_error_budget
from plugins_trt.onnx_function import attach_functions
from plugins_trt.onnx_node import translation_table

NUM_REPLACED = {
    "Deformable DETR": 4,
    "Grounding DINO": 4,
    "RT-DETR": 2,
    "RT-DETRv2": 2,
    "D-FINE": 2,
    "LW-DETR": 1,
    "Mask2Former": 2,
    "OneFormer": 2,
}
ONE_OF_EACH_KIND = ["RT-DETR", "RT-DETRv2", "D-FINE", "Mask2Former"]
OUTPUTS, GRADIENTS = 1e-11, 1e-7
"""Tolerances in float64, relative to the largest element of each tensor: the same terms in another order, through a
whole network and back."""


@functools.cache
def made(name: str) -> Case:
    return make(MODELS[name], SMALL)


def small(name: str) -> Case:
    """One that the test may change."""
    case = made(name)
    return Case(copy.deepcopy(case.model), dict(case.inputs), case.outputs)


def outputs_of(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in case.inputs.items()}
    with torch.no_grad():
        found = case.model.to(dtype)(**inputs)
    return {name: getattr(found, name) for name in case.outputs}


def gradients_of(case: Case) -> dict[str, Tensor]:
    """In float64, of the pixels and of all parameters."""
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in case.inputs.items()}
    pixels = inputs["pixel_values"].requires_grad_()
    found = case.model.double()(**inputs)
    total = sum(getattr(found, name).sin().sum() for name in case.outputs)
    wanted = {"pixels": pixels} | {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(total, [*wanted.values()], allow_unused=True)
    return {name: g for name, g in zip(wanted, gradients, strict=True) if g is not None}


def largest_difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Over all tensors, each relative to its largest element, and a millionth of the largest of all: gradients that are
    zero but for rounding, as those of the biases of keys, count for nothing."""
    assert actual.keys() == expected.keys()
    least = 1e-6 * max(float(x.abs().max()) for x in expected.values())
    return max(float((actual[n] - x).abs().max()) / max(float(x.abs().max()), least) for n, x in expected.items())


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_same(name: str) -> None:
    theirs, ours = small(name), small(name)
    report = mmfs.replace_attention(ours.model)
    assert len(report.replaced) == NUM_REPLACED[name]
    assert report.kept == {}
    assert ours.model.state_dict().keys() == theirs.model.state_dict().keys()
    baseline, actual = outputs_of(theirs), outputs_of(ours)
    exact = outputs_of(theirs, torch.float64)
    for key, tensor in actual.items():
        assert_within_error_budget(tensor, baseline=baseline[key], exact=exact[key])
    assert largest_difference(outputs_of(ours, torch.float64), exact) < OUTPUTS
    assert largest_difference(gradients_of(ours), gradients_of(theirs)) < GRADIENTS


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_difference_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mmfs.layer, core_v2, pixel_decoder, rt_detr_v2):
        right = module.ms_deform_attn

        def wrong(*given: object, right: Callable[..., Tensor] = right, **named: object) -> Tensor:
            return right(*given, **named) * 1.001

        monkeypatch.setattr(module, "ms_deform_attn", wrong)
    theirs, ours = small(name), small(name)
    mmfs.replace_attention(ours.model)
    assert largest_difference(outputs_of(ours, torch.float64), outputs_of(theirs, torch.float64)) > 1e5 * OUTPUTS
    assert largest_difference(gradients_of(ours), gradients_of(theirs)) > 1e2 * GRADIENTS


@pytest.mark.parametrize("name", MODELS)
def test_restoring_puts_back_the_modules_that_were_there(name: str) -> None:
    model = small(name).model
    before = dict(model.named_modules())
    report = mmfs.replace_attention(model)
    assert dict(model.named_modules()) != before
    assert mmfs.restore_attention(model) == report.replaced
    after = dict(model.named_modules())
    assert [*after] == [*before]
    assert all(after[key] is module for key, module in before.items())
    with pytest.raises(ValueError, match=r"holds nothing that mmfs\.replace_attention put there"):
        mmfs.restore_attention(model)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_restored_model_has_what_became_of_it_since(name: str) -> None:
    case = small(name)
    mmfs.replace_attention(case.model)
    case.model.double().train()
    mmfs.restore_attention(case.model)
    assert all(module.training for module in case.model.modules())
    assert {x.dtype for x in case.model.state_dict().values() if x.is_floating_point()} == {torch.float64}
    case.model.eval()
    outputs_of(case, torch.float64)


def pickled(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again: nn.Module = torch.load(buffer, weights_only=False)
    return again


COPIES = [(copy.deepcopy, name) for name in ONE_OF_EACH_KIND]
COPIES += [(pickled, name) for name in ("RT-DETR", "RT-DETRv2", "D-FINE")]  # a Mask2Former cannot be pickled as it is


@pytest.mark.parametrize(("copied", "name"), COPIES)
def test_copies_compute_the_same_and_can_be_restored(copied: Callable[[nn.Module], nn.Module], name: str) -> None:
    case = small(name)
    mmfs.replace_attention(case.model)
    other = Case(copied(case.model), case.inputs, case.outputs)
    expected = outputs_of(case)
    assert largest_difference(outputs_of(other), expected) == 0
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.01)
    changed = outputs_of(other, torch.float64)
    mmfs.restore_attention(other.model)
    assert largest_difference(outputs_of(other, torch.float64), changed) < OUTPUTS  # its own parameters
    assert largest_difference(outputs_of(case), expected) == 0


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_weights_are_saved_and_loaded_as_ever(name: str, tmp_path) -> None:
    case = small(name)
    mmfs.replace_attention(case.model)
    case.model.save_pretrained(tmp_path)
    loaded = Case(type(case.model).from_pretrained(tmp_path).eval(), case.inputs, case.outputs)
    mmfs.replace_attention(loaded.model)
    assert largest_difference(outputs_of(loaded, torch.float64), outputs_of(case, torch.float64)) < OUTPUTS


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_bfloat16_errs_as_theirs_does(name: str) -> None:
    theirs, ours = small(name), small(name)
    mmfs.replace_attention(ours.model)
    module = _first_attention(ours.model)
    baseline = _first_attention(theirs.model)
    inputs = _attention_inputs(theirs)
    half = {key: x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in inputs.items()}
    wide = {key: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in half.items()}
    with torch.no_grad():
        actual, expected = module.bfloat16()(**half)[0], baseline.bfloat16()(**half)[0]
        exact = baseline.double()(**wide)[0]
    assert actual.dtype == expected.dtype == torch.bfloat16
    ours_err, theirs_err = ((x.double() - exact).square().mean().sqrt() for x in (actual, expected))
    assert ours_err <= 2 * theirs_err  # the locations, in bfloat16 too, decide about the largest error of both


def _first_attention(model: nn.Module) -> nn.Module:
    return next(part for part in model.modules() if "MultiscaleDeformableAttention" in _class_names(part))


def _class_names(module: nn.Module) -> str:
    return " ".join(kind.__name__ for kind in type(module).__mro__)


def _attention_inputs(case: Case) -> dict[str, object]:
    """What the first attention of a model is given."""
    caught: list[dict[str, object]] = []
    attention = _first_attention(case.model)
    hook = attention.register_forward_pre_hook(
        lambda module, given, named: caught.append(named | ({"hidden_states": given[0]} if given else {})),
        with_kwargs=True,
    )
    outputs_of(case)
    hook.remove()
    return caught[0]


def test_recorded_attention_weights_are_the_same() -> None:
    theirs, ours = small("RT-DETRv2"), small("RT-DETRv2")
    mmfs.replace_attention(ours.model)
    with torch.no_grad():
        expected, actual = (
            case.model(**case.inputs, output_attentions=True).cross_attentions for case in (theirs, ours)
        )
    assert len(actual) == len(expected) == 2
    for ours_now, theirs_now in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_now, theirs_now)


@pytest.mark.parametrize("name", ["Deformable DETR", "RT-DETRv2"])
def test_hooks_stay(name: str) -> None:
    case = small(name)
    calls: list[str] = []
    places = mmfs.replace_attention(copy.deepcopy(case.model)).replaced
    for place in places:
        case.model.get_submodule(place).register_forward_hook(lambda *given, place=place: calls.append(place))
    mmfs.replace_attention(case.model)
    outputs_of(case)
    assert calls == [*places]


@pytest.mark.parametrize("name", ["RT-DETRv2", "D-FINE"])
def test_nearest_pixels_are_refused(name: str) -> None:
    model = small(name).model
    for part in model.modules():
        for attribute in ("method", "decoder_method"):
            if hasattr(part, attribute):
                setattr(part, attribute, "discrete")
    with pytest.raises(ValueError, match="samples by the method 'discrete', and mmfs bilinearly"):
        mmfs.replace_attention(model)
    outputs_of(small(name))


def test_what_stays_is_told_with_the_reason() -> None:
    class MyDeformableAttention(nn.Module):
        pass

    model = nn.ModuleDict({"detector": small("RT-DETRv2").model, "mine": MyDeformableAttention()})
    attentions = [part for part in model.modules() if "MultiscaleDeformableAttention" in type(part).__name__]
    attentions[0].method = "discrete"
    report = mmfs.replace_attention(model)
    assert report.replaced == ("detector.model.decoder.layers.1.encoder_attn",)
    assert [*report.kept] == ["detector.model.decoder.layers.0.encoder_attn", "mine"]
    first, second, third = str(report).splitlines()
    assert first == "mmfs computes 1 attention: detector.model.decoder.layers.1.encoder_attn."
    reason = "it samples by the method 'discrete', and mmfs bilinearly ('default')."
    assert second == f"detector.model.decoder.layers.0.encoder_attn is as it was: {reason}"
    assert third.startswith("mine is as it was: it is a ")
    assert "MyDeformableAttention, which mmfs does not know" in third


def test_a_model_without_such_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="This Sequential has no multi-scale deformable attention of transformers"):
        mmfs.replace_attention(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_has_it_already_is_refused_and_stays(name: str) -> None:
    model = small(name).model
    mmfs.replace_attention(model)
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=rf"already, {NUM_REPLACED[name]} of them. Nothing was changed"):
        mmfs.replace_attention(model)
    assert dict(model.named_modules()) == before


def test_a_single_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="give the model that holds it"):
        mmfs.replace_attention(_first_attention(small("RT-DETRv2").model))


def test_a_forward_of_the_object_itself_is_refused() -> None:
    model = small("Deformable DETR").model
    for name in mmfs.replace_attention(copy.deepcopy(model)).replaced:
        module = model.get_submodule(name)
        module.forward = module.forward  # as accelerate's hooks do
    with pytest.raises(ValueError, match="forward was replaced or compiled on the object itself"):
        mmfs.replace_attention(model)


def test_other_arguments_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmfs.MultiScaleDeformableAttention, "forward", lambda self, value, sizes: value)
    with pytest.raises(ValueError, match=r"in this version of transformers it takes \['value', 'value_spatial_shapes'"):
        mmfs.replace_attention(small("LW-DETR").model)


def test_the_backend_is_the_one_that_was_asked_for() -> None:
    model = small("D-FINE").model
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        mmfs.replace_attention(model, backend="gpu")
    for name in mmfs.replace_attention(model, backend="reference").replaced:
        assert model.get_submodule(name).backend == "reference"


def test_a_module_in_two_places_stays_one() -> None:
    model = small("RT-DETRv2").model
    twice = nn.ModuleList([model, model.model.decoder.layers])
    report = mmfs.replace_attention(twice)
    assert len({id(twice.get_submodule(name)) for name in report.replaced}) == 2
    shared = nn.ModuleDict({"a": _first_attention(small("RT-DETRv2").model)})
    shared["b"] = shared["a"]
    mmfs.replace_attention(shared)
    assert shared["a"] is shared["b"]
    assert attention_replacement.STANDS_FOR in shared["a"].__dict__
    mmfs.restore_attention(shared)
    assert shared["a"] is shared["b"]


def test_a_trained_step_is_the_same() -> None:
    theirs, ours = small("Deformable DETR"), small("Deformable DETR")
    mmfs.replace_attention(ours.model)
    for case in (theirs, ours):
        case.model.double().train()
        optimizer = torch.optim.SGD(case.model.parameters(), lr=1e-3)
        pixels = case.inputs["pixel_values"].double()
        for _ in range(2):
            optimizer.zero_grad()
            case.model(pixels).logits.square().mean().backward()
            optimizer.step()
    expected = {n: p.detach() for n, p in theirs.model.named_parameters()}
    assert largest_difference({n: p.detach() for n, p in ours.model.named_parameters()}, expected) < 1e-9


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("Deformable DETR", "RT-DETRv2", "D-FINE")]
)
@pytest.mark.filterwarnings("ignore")  # of torch.compile, about transformers' code
def test_compiled_models_compute_the_same(name: str) -> None:
    case = small(name)
    mmfs.replace_attention(case.model)
    expected = outputs_of(case)
    compiled = torch.compile(case.model, backend="aot_eager")
    actual = outputs_of(Case(compiled, case.inputs, case.outputs))
    for key, tensor in actual.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-4, atol=1e-4)


class Outputs(nn.Module):
    """What an exporter takes: a tensor in, tensors out."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model, self.names = case.model, case.outputs

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        found = self.model(pixel_values=pixel_values)
        return tuple(getattr(found, name) for name in self.names)


@pytest.mark.slow
@pytest.mark.skipif(mmfs.onnxruntime.why_not() is not None, reason="there are no custom operators for onnxruntime")
@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about transformers' code
@pytest.mark.parametrize(("name", "is_dynamic"), [("Deformable DETR", False), ("RT-DETR", False), ("RT-DETR", True)])
def test_an_export_holds_the_node_and_computes_the_same(name: str, is_dynamic: bool) -> None:
    case = small(name)
    num_nodes = len(mmfs.replace_attention(case.model).replaced)
    model = Outputs(case)
    sizes = [(64, 96), (96, 128)] if is_dynamic else [(64, 96)]
    images = [torch.rand(1, 3, *size) for size in sizes]
    dynamic_shapes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},) if is_dynamic else None
    # Strictly, where sizes vary: otherwise the positions that transformers caches by size become constants.
    program = torch.export.export(model, (images[0],), dynamic_shapes=dynamic_shapes, strict=is_dynamic)
    exported = torch.onnx.export(program, custom_translation_table=translation_table(), verbose=False)
    assert exported is not None
    file = attach_functions(exported.model_proto)
    kinds = [node.op_type for node in file.graph.node]
    assert kinds.count("DynamicMSDeformAttn" if is_dynamic else "MSDeformAttn") == num_nodes
    assert "GridSample" not in kinds
    options = onnxruntime.SessionOptions()
    mmfs.onnxruntime.register(options)
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for image in images:
        with torch.no_grad():
            expected = model(image)
        for actual, tensor in zip(session.run(None, {"pixel_values": image.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), tensor, rtol=0, atol=1e-4 * float(tensor.abs().max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about transformers' code
def test_a_program_of_deformable_detr_refuses_images_of_another_size() -> None:
    """As docs/transformers_models.md says, torch.linspace in transformers' encoder makes sizes of maps constants."""
    case = small("Deformable DETR")
    mmfs.replace_attention(case.model)
    model = Outputs(case)
    shapes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (torch.rand(1, 3, 144, 208),), dynamic_shapes=shapes, strict=True).module()
    image = torch.rand(1, 3, 144, 208)
    with torch.no_grad():
        torch.testing.assert_close(program(image), model(image))
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.rand(1, 3, 192, 224))
