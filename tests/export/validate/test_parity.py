from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.components.check_inputs import Case
from export.components.component import Component, Tolerances
from export.validate.parity import ParityError, check, open_session, relative_error
from numerics import assert_equal_up_to_rounding

SIZES = [
    {"batch": 1, "tokens": 1, "past": 1, "images": 1, "context": 1},
    {"batch": 3, "tokens": 6, "past": 9, "images": 2, "context": 11},
]


def random_inputs(component: Component, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = {}
    for name, port in component.inputs.items():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.shape]
        is_float = port.dtype.is_floating_point
        inputs[name] = torch.randn(shape, generator=generator) if is_float else torch.ones(shape, dtype=port.dtype)
    if "visible" in inputs:
        inputs["visible"][..., 0] = 0
        inputs["visible"][..., 1] = sizes["images"]
    if "last_token_ids" in inputs:
        inputs["last_token_ids"][:] = sizes["tokens"] - 1
    return inputs


def test_every_component_agrees_at_sizes_it_was_not_traced_with(
    exported: Path, components: dict[str, Component]
) -> None:
    for name, component in components.items():
        cases = [Case(str(i), random_inputs(component, sizes)) for i, sizes in enumerate(SIZES)]
        results = check(component, exported / "onnx" / f"{name}.onnx", cases)
        assert [result.worst <= Tolerances().relative_error for result in results] == [True, True]


@pytest.mark.parametrize("name", ["llm", "unet_mmfs"])
def test_what_is_seen_matters(exported: Path, cases: dict[str, list[Case]], name: str) -> None:
    """The exported node looks at the images in `visible` and at no others."""
    session = open_session(exported / "onnx" / f"{name}.onnx")
    bank = {"llm": 0, "unet_mmfs": 1}[name]  # a case with several images
    inputs = {port: tensor.numpy() for port, tensor in cases[name][bank].inputs.items()}
    output = session.get_outputs()[0].name
    inputs["visible"] = np.zeros_like(inputs["visible"]) + np.array([1, 2])

    def run(image: int) -> np.ndarray:
        changed = {port: array.copy() for port, array in inputs.items()}
        for port in changed:
            if "mmfs_value_" in port:
                changed[port][image] += 5
        return session.run([output], changed)[0]

    before = session.run([output], inputs)[0]
    assert np.abs(run(1) - before).max() > 1e-3 * np.abs(before).max()
    for unseen in (0, 2):
        assert_equal_up_to_rounding(torch.from_numpy(run(unseen)), torch.from_numpy(before))


@pytest.mark.parametrize(
    "name", ["image_tokenizer", "mmfs_values_llm", "mmfs_values_unet", "llm", "context_resampler", "unet_mmfs"]
)
def test_one_wrong_weight_fails_loudly(
    exported: Path, components: dict[str, Component], cases: dict[str, list[Case]], tmp_path: Path, name: str
) -> None:
    proto = onnx.load(exported / "onnx" / f"{name}.onnx")
    weights = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    largest = max(weights, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest)
    noise = np.random.default_rng(0).standard_normal(values.shape, dtype=np.float32)  # a norm would undo a mere factor
    largest.CopyFrom(onnx.numpy_helper.from_array(values * (1 + 0.02 * noise), largest.name))
    onnx.save(proto, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match=rf"{name}, case '.*': output \w+ is off by .* is allowed"):
        check(components[name], tmp_path / "wrong.onnx", cases[name])


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.0, 2.0002], [1.0, 2.0], 1e-4),
        ([1.0, 1e-9], [1.0, 0.0], 2**0.5 * 1e-9),  # the root mean square is the floor
        ([1e-30, 0.0], [0.0, 0.0], np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [np.inf, 1.0], np.inf),
        ([], [], 0.0),
    ],
    ids=["equal", "relative", "near-zero", "all-zero", "nan", "infinite", "empty"],
)
def test_relative_error(actual: list[float], expected: list[float], error: float) -> None:
    assert relative_error(np.array(actual), np.array(expected)) == pytest.approx(error, rel=1e-6)


def test_relative_error_refuses_other_shapes() -> None:
    with pytest.raises(ParityError, match=r"\[2\] where PyTorch has \[1, 2\]"):
        relative_error(np.ones(2), np.ones((1, 2)))
