"""The compiled CPU kernel against the reference: outputs and every gradient, for both instruction sets."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from alignment import OFFSETS, at_offset
from mmfs import compiled, embedding_bag
from mmfs.arguments import MMFSAttentionArguments, MSDeformAttnArguments
from mmfs.reference import mmfs_attention_reference, ms_deform_attn_reference
from numerics import assert_equal_up_to_rounding, assert_within_error_budget
from op_cases import Case, arguments_of, largest_difference, mmfs_attention_case, ms_deform_attn_case, strided

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "mmfs" / "kernels"

MS_DEFORM_ATTN = [
    pytest.param({}, id="not-square-and-outside"),
    pytest.param({"dim": 1}, id="one-channel"),
    pytest.param({"dim": 8, "sizes": [(1, 4)]}, id="one-row"),
    pytest.param({"dim": 16, "sizes": [(4, 1), (1, 1)]}, id="one-column-and-one-pixel"),
    pytest.param({"dim": 32, "num_queries": 60}, id="many-queries"),
    pytest.param({"dim": 64, "sizes": [(40, 50)]}, id="few-queries"),
    pytest.param({"dim": 67, "sizes": [(40, 50)]}, id="few-queries-odd-channels"),
    pytest.param({"dim": 150, "num_queries": 60}, id="more-channels-than-registers"),
    pytest.param({"low": 1.5, "high": 3.0}, id="all-outside"),
    pytest.param({"num_heads": 5, "dim": 30, "num_points": 7}, id="odd-numbers"),
    pytest.param({"num_queries": 0}, id="no-queries"),
    pytest.param({"num_points": 0}, id="no-points"),
    pytest.param({"batch": 0}, id="no-batch"),
    pytest.param({"dim": 0}, id="no-channels"),
]

MMFS_ATTENTION = [
    pytest.param({}, id="tables-null-logit-null-value"),
    pytest.param({"null_logit": None}, id="plain-softmax"),
    pytest.param({"null_logit": None, "null_value": False, "tables": False}, id="paper-without-ages"),
    pytest.param({"null_value": False, "null_logit": 0.0}, id="null-goes-nowhere"),
    pytest.param({"null_logit": 200.0}, id="null-takes-all"),
    pytest.param({"num_ages": 1, "dim": 1}, id="one-row-for-all-ages"),
    pytest.param({"num_ages": 9, "dim": 8}, id="ages-that-nobody-sees"),
    pytest.param({"sizes": [(5, 3)], "num_images": 1, "spread": 2.0}, id="one-image-many-outside"),
    pytest.param({"dim": 32, "num_queries": 150, "num_points": 1}, id="several-tiles"),
    pytest.param({"dim": 64, "sizes": [(20, 30), (3, 2)]}, id="few-queries"),
    pytest.param({"dim": 67, "sizes": [(20, 30), (3, 2)]}, id="few-queries-odd-channels"),
    pytest.param({"num_images": 0}, id="no-images"),
    pytest.param({"num_images": 0, "null_value": False, "null_logit": None}, id="no-images-and-no-null"),
    pytest.param({"num_queries": 0}, id="no-queries"),
    pytest.param({"batch": 0}, id="no-batch"),
]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of libraries of the present sources: those of the installation, or compiled now."""
    build = setup_script()
    sources = [KERNELS / "cpu.cpp", *KERNELS.glob("*.h")]
    newest = max(source.stat().st_mtime for source in sources)
    libraries = [compiled.FOLDER / f"_cpu_{instruction_set}.so" for instruction_set in build.instruction_sets()]
    if all(library.is_file() and library.stat().st_mtime > newest for library in libraries):
        return compiled.FOLDER
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("there is neither a built library nor a C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    for library in libraries:
        build.compile_kernel(compiler, [KERNELS / "cpu.cpp"], library.stem.rpartition("_")[2], folder / library.name)
    return folder


def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def take(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets calls of `compiled` take an instruction set; skips the test where this machine has not got it."""

    def taken(instruction_set: str) -> None:
        if (reason := compiled.why_not_instruction_set(instruction_set)) is not None:
            pytest.skip(reason)
        monkeypatch.setattr(compiled, "best_instruction_set", lambda: instruction_set)

    monkeypatch.setattr(compiled, "FOLDER", built)
    forget_libraries()
    yield taken
    monkeypatch.undo()
    forget_libraries()


@pytest.fixture(params=compiled.INSTRUCTION_SETS)
def kernel(request: pytest.FixtureRequest, take: Callable[[str], None]) -> str:
    """Calls of `compiled` take this instruction set."""
    take(request.param)
    return request.param


def forget_libraries() -> None:
    for of_a_process in (
        compiled.library,
        compiled.best_instruction_set,
        compiled.why_not_instruction_set,
        compiled.why_no_library,
    ):
        of_a_process.cache_clear()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many threads PyTorch has, for the library alone."""

    def use(num_threads: int) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)

    return use


class Compiled(torch.autograd.Function):
    """Either op by `compiled`, whichever implementation is registered under its operator."""

    @staticmethod
    def forward(ctx: Any, structure: Any, *fields: Any) -> Tensor:
        tensors = [field if isinstance(field, Tensor) else None for field in fields]
        ctx.structure, ctx.fields = structure, [None if isinstance(field, Tensor) else field for field in fields]
        ctx.save_for_backward(*tensors)
        return getattr(compiled, f"{name_of(structure)}_forward")(structure(*fields))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fields = [
            constant if tensor is None else tensor
            for constant, tensor in zip(ctx.fields, ctx.saved_tensors, strict=True)
        ]
        arguments = ctx.structure(*fields)
        needs_value = ctx.needs_input_grad[1]
        backward = getattr(compiled, f"{name_of(ctx.structure)}_backward")
        grads = backward(grad, arguments, needs_value)._asdict()
        return None, *(grads.get(name) if field is not None else None for name, field in arguments._asdict().items())


def name_of(structure: Any) -> str:
    return "ms_deform_attn" if structure is MSDeformAttnArguments else "mmfs_attention"


def compiled_ms_deform_attn(**named: Any) -> Tensor:
    return Compiled.apply(MSDeformAttnArguments, *arguments_of(**named))


def compiled_mmfs_attention(**named: Any) -> Tensor:
    return Compiled.apply(MMFSAttentionArguments, *arguments_of(**named))


def reference_of(op: Any) -> Any:
    exact = ms_deform_attn_reference if op is compiled_ms_deform_attn else mmfs_attention_reference
    return lambda **named: exact(arguments_of(**named))


def assert_equals_reference(op: Any, case: Case) -> None:
    expected = case.run(reference_of(op))
    differences = largest_difference(case.run(op), expected)
    for name, difference in differences.items():
        largest = float(expected[name].abs().max()) if expected[name].numel() else 0.0
        assert difference <= 1e-13 * max(1.0, largest), f"{name}: {difference:.1e}, largest element {largest:.1e}"


@pytest.mark.parametrize("options", MS_DEFORM_ATTN)
def test_ms_deform_attn_equals_reference(kernel: str, options: dict[str, Any]) -> None:
    assert_equals_reference(compiled_ms_deform_attn, ms_deform_attn_case(**options))


@pytest.mark.parametrize("options", MMFS_ATTENTION)
def test_mmfs_attention_equals_reference(kernel: str, options: dict[str, Any]) -> None:
    assert_equals_reference(compiled_mmfs_attention, mmfs_attention_case(**options))


@pytest.mark.parametrize("num_queries", [3, 40])  # few rows are read in place or padded, many from a packed copy
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_within_the_budget_of_the_reference(
    kernel: str, dtype: torch.dtype, dim: int, num_queries: int
) -> None:
    """value and output in dtype, everything else in float32; the reference computes in float32, too, and rounds."""
    for op, case in (
        (compiled_ms_deform_attn, ms_deform_attn_case([(9, 14), (5, 6)], num_queries=num_queries, dim=dim)),
        (compiled_mmfs_attention, mmfs_attention_case([(9, 14), (5, 6)], num_queries=num_queries, dim=dim)),
    ):
        value = case.tensors["value"].to(dtype)
        leaves = {"value": value} | {name: t.float() for name, t in case.tensors.items() if name != "value"}
        exact = Case({name: leaf.double() for name, leaf in leaves.items()}, case.rest).run(reference_of(op))
        actual = output_and_gradients(op, leaves, case.rest)
        baseline = output_and_gradients(reference_of(op), leaves, case.rest)
        for name, tensor in actual.items():
            floor = 2e-6 if name not in ("output", "value") or dtype == torch.float32 else torch.finfo(dtype).eps / 2
            assert_within_error_budget(tensor, baseline=baseline[name], exact=exact[name], floor=floor)


def output_and_gradients(op: Any, leaves: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Tensor]:
    """As Case.run, but every tensor keeps its own dtype."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    out = op(**leaves, **rest)
    weighting = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), weighting)
    return {"output": out.detach(), **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_avx512_gives_the_bits_of_avx2(take: Callable[[str], None], dtype: torch.dtype) -> None:
    for op, case in (
        (compiled_ms_deform_attn, ms_deform_attn_case([(9, 14), (5, 6)], num_queries=40, dim=24)),
        (compiled_mmfs_attention, mmfs_attention_case([(9, 14), (5, 6)], num_queries=40, dim=24)),
    ):
        leaves = {name: t.to(dtype if name == "value" else torch.float32) for name, t in case.tensors.items()}
        found = []
        for instruction_set in ("avx512", "avx2"):
            take(instruction_set)
            found.append(output_and_gradients(op, leaves, case.rest))
        for name, tensor in found[0].items():
            assert torch.equal(tensor, found[1][name]), name


def test_every_half_number_survives_the_kernel(kernel: str) -> None:
    """One pixel read at its centre with weight 1 is copied: all bit patterns, subnormal and infinite ones too."""
    for dtype in (torch.bfloat16, torch.float16):
        value = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, 1, 1, -1)
        centre, one = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
        out = compiled.ms_deform_attn_forward(MSDeformAttnArguments(value, [1, 1], centre, one))
        assert torch.equal(out.isnan().flatten(), value.isnan().flatten())
        assert torch.equal(out.flatten().nan_to_num(0.5), value.flatten().nan_to_num(0.5))


def test_images_of_different_sizes(kernel: str) -> None:
    case = mmfs_attention_case(num_images=3)
    sizes = torch.tensor([[[4, 7], [3, 2]], [[2, 2], [1, 1]], [[1, 5], [6, 3]]])
    case.tensors["value"] = torch.randn(int(sizes.prod(-1).sum()), 2, 3, dtype=torch.float64)
    case.rest["spatial_shapes"] = sizes
    assert_equals_reference(compiled_mmfs_attention, case)
    with pytest.raises(ValueError, match="spatial_shapes describe"):
        compiled_mmfs_attention(**(case.tensors | {"value": case.tensors["value"][1:]}), **case.rest)


@pytest.mark.parametrize("op", [compiled_ms_deform_attn, compiled_mmfs_attention])
def test_strided_inputs(kernel: str, op: Any) -> None:
    case = ms_deform_attn_case() if op is compiled_ms_deform_attn else mmfs_attention_case()
    expected = case.run(op)
    case.tensors = {name: strided(tensor) for name, tensor in case.tensors.items()}
    assert not any(tensor.is_contiguous() for tensor in case.tensors.values())
    if op is compiled_mmfs_attention:
        case.rest["visible"] = strided(case.rest["visible"].int())
    for name, tensor in case.run(op).items():
        assert_equal_up_to_rounding(tensor, expected[name])


def large_case(op: Any, num_heads: int) -> Case:
    """Enough products for three threads; with one head of one group they share its gradient."""
    options = {"batch": 1, "num_heads": num_heads, "dim": 128, "num_points": 6}
    if op is compiled_ms_deform_attn:
        return ms_deform_attn_case(num_queries=600 // num_heads, **options)
    return mmfs_attention_case(num_queries=189 // num_heads, **options)


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("op", [compiled_ms_deform_attn, compiled_mmfs_attention])
def test_two_threads_equal_the_reference_and_themselves(
    kernel: str, threads: Callable[[int], None], op: Any, num_heads: int
) -> None:
    """Two runs are equal bit for bit, or no training would be that is resumed."""
    threads(2)
    case = large_case(op, num_heads)
    actual, expected, again = case.run(op), case.run(reference_of(op)), case.run(op)
    for name in actual:
        assert torch.allclose(actual[name], expected[name], rtol=1e-11, atol=1e-11), name
        assert torch.equal(actual[name], again[name]), f"{name} differs between two runs"


@pytest.mark.parametrize("op", [compiled_ms_deform_attn, compiled_mmfs_attention])
def test_deterministic_sums_do_not_depend_on_the_number_of_threads(
    kernel: str, threads: Callable[[int], None], op: Any
) -> None:
    """What `torch.use_deterministic_algorithms` promises: equal bit for bit. With one head of one group, whose gradient
    several threads would share."""
    case = large_case(op, num_heads=1)
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for num_threads in (1, 2, 3):
            threads(num_threads)
            results.append(case.run(op))
    finally:
        torch.use_deterministic_algorithms(False)
    for result in results[1:]:
        for name, tensor in result.items():
            assert torch.equal(tensor, results[0][name]), name
    threads(3)
    output = case.run(op)["output"]
    assert torch.equal(output, results[0]["output"]), "the output never depends on it"


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("op", [compiled_ms_deform_attn, compiled_mmfs_attention])
def test_bits_do_not_depend_on_where_the_arguments_begin(kernel: str, op: Any, offset: int) -> None:
    """The kernel adds in a fixed order, so that a training that is resumed can be equal bit for bit."""
    case = large_case(op, num_heads=3)
    leaves = {name: at_offset(tensor.float(), 0) for name, tensor in case.tensors.items()}
    moved = {name: at_offset(tensor, offset) for name, tensor in leaves.items()}
    expected, actual = (output_and_gradients(op, arguments, case.rest) for arguments in (leaves, moved))
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name


def test_rows_that_share_images_add_their_gradients(kernel: str) -> None:
    """Overlapping, nested, disjoint and empty ranges of the rows of a batch."""
    case = mmfs_attention_case(batch=6, num_queries=2)
    ranges = torch.tensor([[0, 3], [2, 4], [5, 6], [3, 3], [0, 1], [1, 2]])
    case.rest["visible"] = ranges[:, None].repeat(1, 2, 1)
    assert_equals_reference(compiled_mmfs_attention, case)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_a_location_that_is_not_finite_samples_zero_and_has_no_gradient(kernel: str, bad: float) -> None:
    case = ms_deform_attn_case(low=0.1, high=0.9)
    case.tensors["sampling_locations"][0, 1, 0, 1, 2, 0] = bad
    case.tensors["sampling_locations"][1, 3, 1, 0, 0] = bad
    assert_equals_reference(compiled_ms_deform_attn, case)
    gradient = case.run(compiled_ms_deform_attn)["sampling_locations"]
    assert (gradient[0, 1, 0, 1, 2] == 0).all()
    assert (gradient[1, 3, 1, 0, 0] == 0).all()
    multi = mmfs_attention_case(spread=0.05)
    multi.tensors["sampling_offsets"][0, 2, 1, 0] = bad
    assert_equals_reference(compiled_mmfs_attention, multi)


@pytest.mark.parametrize("num_queries", [1, 40])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_pixel_that_no_sample_touches_has_no_effect(kernel: str, bad: float, num_queries: int) -> None:
    value = torch.randn(1, 6, 1, 8, dtype=torch.float64)  # 2 x 3
    dirty = value.clone()
    dirty[0, [0, 5]] = bad
    locations = torch.tensor([[0.9, 0.1], [0.0, 0.9]], dtype=torch.float64).expand(1, num_queries, 1, 1, 2, 2)
    weights = torch.ones(1, num_queries, 1, 1, 2, dtype=torch.float64)
    others = {"sampling_locations": locations, "attention_weights": weights}
    clean = Case({"value": value, **others}, {"spatial_shapes": [(2, 3)]})
    expected = clean.run(reference_of(compiled_ms_deform_attn))
    actual = Case({"value": dirty, **others}, clean.rest).run(compiled_ms_deform_attn)
    assert expected["value"].abs().sum() > 0
    differences = largest_difference(actual, expected)
    assert max(differences.values()) < 1e-13, differences


def test_cell_edges(kernel: str) -> None:
    """On pixel centres, on borders of the level and one pixel out, in float32: what the reference gives, exactly."""
    ticks = torch.arange(-2, 11) / 8  # 4 pixels wide: edges and centres alike
    locations = torch.cartesian_prod(ticks, ticks).view(1, -1, 1, 1, 1, 2)
    value = torch.randn(1, 16, 1, 4)
    weights = torch.ones(1, locations.shape[1], 1, 1, 1)
    leaves = {"value": value, "sampling_locations": locations, "attention_weights": weights}
    actual = output_and_gradients(compiled_ms_deform_attn, leaves, {"spatial_shapes": [(4, 4)]})
    expected = output_and_gradients(reference_of(compiled_ms_deform_attn), leaves, {"spatial_shapes": [(4, 4)]})
    for name in actual:
        assert torch.allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5), name


def test_a_query_without_images_gets_exactly_null_value(kernel: str) -> None:
    case = mmfs_attention_case()
    empty = case.rest["visible"].diff(dim=-1)[..., 0] == 0
    for null_logit in (0.3, None):
        case.rest["null_logit"] = null_logit
        out = compiled_mmfs_attention(**case.tensors, **case.rest)
        assert (out[empty] == case.tensors["null_value"].flatten()).all()
    case.rest["visible"] = torch.tensor([3, -100]).expand(2, 5, 2)  # reversed: empty wherever it points
    assert (compiled_mmfs_attention(**case.tensors, **case.rest) == case.tensors["null_value"].flatten()).all()


def test_logits_of_any_size_give_the_softmax_of_the_reference(kernel: str) -> None:
    """Single precision has its own exponential."""
    case = mmfs_attention_case(num_queries=40, dim=8)
    case.tensors["attention_logits"] *= torch.logspace(-3, 2.2, 40, dtype=torch.float64)[:, None, None, None]
    case.tensors["attention_logits"][0, 5, 0, 0, 0] = -torch.inf
    leaves = {name: tensor.float() for name, tensor in case.tensors.items()}
    exact = Case({name: leaf.double() for name, leaf in leaves.items()}, case.rest).run(
        reference_of(compiled_mmfs_attention)
    )
    actual = output_and_gradients(compiled_mmfs_attention, leaves, case.rest)
    baseline = output_and_gradients(reference_of(compiled_mmfs_attention), leaves, case.rest)
    for name in actual:
        assert_within_error_budget(actual[name], baseline=baseline[name], exact=exact[name], floor=2e-6)


def test_bad_arguments_are_refused(kernel: str) -> None:
    case = mmfs_attention_case()
    case.rest["visible"] = torch.tensor([0, 7]).expand(2, 5, 2)
    with pytest.raises(ValueError, match="bank has 6 images"):
        compiled_mmfs_attention(**case.tensors, **case.rest)
    plain = ms_deform_attn_case()
    with pytest.raises(ValueError, match="spatial_shapes is"):
        compiled_ms_deform_attn(**plain.tensors, spatial_shapes=[(4, 7), (3, 3)])


def test_values_that_the_kernel_cannot_take_are_named(kernel: str) -> None:
    assert compiled.why_not() is None
    assert compiled.why_not(torch.zeros(1, dtype=torch.bfloat16)) is None
    reason = compiled.why_not(torch.zeros(1, dtype=torch.float8_e4m3fn))
    assert reason is not None
    assert "value is torch.float8_e4m3fn" in reason
    assert compiled.why_not(torch.zeros(1, device="meta")) == "value is on meta"


def test_the_gradient_of_a_frozen_value_is_not_computed(kernel: str) -> None:
    case = mmfs_attention_case()
    value = case.tensors.pop("value")
    leaves = {name: tensor.requires_grad_() for name, tensor in case.tensors.items()}
    out = compiled_mmfs_attention(value=value, **leaves, **case.rest)
    gradients = torch.autograd.grad(out.sum(), list(leaves.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert value.grad is None


def test_results_have_the_types_of_embedding_bag(kernel: str) -> None:
    """Either implementation may run under the operator: shapes and dtypes are the same, of what was not given too."""
    for dtype in (torch.float32, torch.bfloat16):
        case = mmfs_attention_case(tables=False, null_value=False)
        arguments = arguments_of(**{name: tensor.to(dtype) for name, tensor in case.tensors.items()}, **case.rest)
        grad = torch.ones(2, 5, 6, dtype=dtype)
        for needs_value in (True, False):
            ours = compiled.mmfs_attention_backward(grad, arguments, needs_value)
            theirs = embedding_bag.mmfs_attention_backward(grad, arguments, needs_value)
            assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in theirs]


def test_a_missing_library_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    forget_libraries()
    reason = compiled.why_not()
    assert reason is not None
    assert "no compiled CPU kernel _cpu_portable.so: no C++ compiler was found when it was installed" in reason
    (tmp_path / "_cpu_portable.so").write_text("not a library")
    forget_libraries()
    assert compiled.why_not() is not None
    monkeypatch.undo()
    forget_libraries()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param("int mmfs_cpu_interface_version() { return 999; }", "has interface version 999", id="other"),
        pytest.param("int mmfs_cpu_has_avx2() { return 0; }", "has no interface version", id="before-versions"),
    ],
)
def test_a_library_with_another_interface_is_refused(
    source: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = setup_script().find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (tmp_path / "stale.cpp").write_text(f'extern "C" {source}')
    library = tmp_path / "_cpu_portable.so"
    build = [*compiler.split(), "-shared", "-fPIC", str(tmp_path / "stale.cpp"), "-o", str(library)]
    subprocess.run(build, check=True)
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    forget_libraries()
    reason = compiled.why_not()
    assert reason is not None
    assert f"{library} {found}, and this version of mmfs needs {compiled.INTERFACE_VERSION}" in reason
    assert "Install mmfs again" in reason
    monkeypatch.undo()
    forget_libraries()


def test_a_change_of_the_structures_changes_the_interface_version() -> None:
    """Where this fails, count INTERFACE_VERSION up in compiled.py and cpu.cpp, and put the new digest here."""
    structures = (compiled.Sizes, compiled.MSDeformAttnCall, compiled.MMFSAttentionCall, compiled.Strategy)
    text = repr([[(name, kind.__name__) for name, kind in structure._fields_] for structure in structures])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (compiled.INTERFACE_VERSION, digest) == (5, "1cc813042aec1d78")


def test_without_the_other_libraries_the_portable_one_computes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_cpu_portable.so").symlink_to(built / "_cpu_portable.so")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    forget_libraries()
    assert compiled.why_not() is None
    assert compiled.best_instruction_set() == "portable"
    assert compiled.best_library() is compiled.library("portable")
    reason = compiled.why_slower()
    assert reason is not None
    missing = ("_cpu_avx2.so", "_cpu_avx512.so")
    assert any(name in reason for name in missing) or reason == "this processor has no AVX2"
    assert_equals_reference(compiled_ms_deform_attn, ms_deform_attn_case())
    monkeypatch.undo()
    forget_libraries()
