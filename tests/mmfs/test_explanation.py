"""mmfs.explain tells what really happens, and refuses what the call would refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mmfs
from mmfs import compiled, explanation
from mmfs.kernels import calls
from mmfs.kernels.plan import Launch
from op_cases import Case, arguments_of, mmfs_attention_case, ms_deform_attn_case

needs_kernel = pytest.mark.skipif(compiled.why_not() is not None, reason=str(compiled.why_not()))


def call(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {name: tensor.to(dtype) for name, tensor in case.tensors.items()} | case.rest


@needs_kernel
def test_many_queries_pack_and_few_read_in_place() -> None:
    many = mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case(dim=32, num_queries=60)))
    assert f"on cpu: the compiled CPU kernel, {compiled.best_instruction_set()}\n" in many
    assert "forward: 4 pieces of work on 1 thread; rows of value are read from a packed copy" in many
    assert "gradient of value summed in padded torch.float32 rows" in many
    assert "not the CUDA kernels: value is on cpu" in many

    few = mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case([(40, 50)], dim=64)))
    assert "rows of value are read in place (a row is read at most twice)" in few
    assert "gradient of value summed in place" in few

    half = mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case([(40, 50)], dim=64), torch.bfloat16))
    widens = compiled.best_instruction_set() != "portable"  # while it loads a row
    assert ("read in place" if widens else "each through a padded copy") in half

    odd = mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case([(40, 50)], dim=67)))
    assert "each through a padded copy" in odd


@needs_kernel
def test_visible_images_decide_too() -> None:
    """Rows 0 and 1 of the batch see different images: queries of row 0 see many, those of row 1 none."""
    case = mmfs_attention_case(dim=8, num_queries=40)
    case.rest["visible"] = torch.tensor([[0, 6], [3, 3]])[:, None].expand(2, 40, 2)
    text = mmfs.explain(mmfs.mmfs_attention, **call(case))
    assert "forward: 4 pieces of work" in text
    assert "read in 2 pieces from a packed copy" in text
    assert "in 2 pieces in place" in text


def test_a_named_reference_and_a_missing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = call(mmfs_attention_case())
    text = mmfs.explain(mmfs.mmfs_attention, **arguments, backend="reference")
    assert "plain PyTorch (mmfs/reference.py)" in text
    monkeypatch.setattr(compiled, "why_not", lambda value: "it was not built")
    text = mmfs.explain(mmfs.mmfs_attention, **arguments)
    assert "PyTorch's embedding_bag" in text
    assert "not the compiled CPU kernel: it was not built" in text
    assert "copied to" not in text
    assert "value is copied to torch.float32" in mmfs.explain(
        mmfs.mmfs_attention, **call(mmfs_attention_case(), torch.bfloat16)
    )


class Launches(list[Launch]):
    """A device with one multiprocessor that launches nothing."""

    num_sms = 1
    shared_bytes = 99 * 1024

    def launch(self, launch: Launch, arguments: object) -> None:
        self.append(launch)


def test_launches_are_those_of_the_call() -> None:
    """Also where value begins in the middle of a vector."""
    case = ms_deform_attn_case(dim=8)
    tensors = {name: tensor.float() for name, tensor in case.tensors.items()}
    value = tensors["value"]
    tensors["value"] = torch.cat([value.new_zeros(1), value.flatten()])[1:].view(value.shape)
    given = arguments_of(**tensors, **case.rest)
    launches = Launches()
    calls.ms_deform_attn_forward(launches, given)
    assert launches[0].instance.arguments == (1, 8, 1)
    lines = explanation.of_cuda(given, num_sms=1, shared_bytes=99 * 1024, deterministic=False)
    assert lines[0] == f"forward: {explanation.launched(launches[0])}"
    assert "the widest load has 4 bytes of 16" in lines[-1]


@pytest.mark.own_allocator
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_decode_step_on_a_gpu(deterministic: bool) -> None:
    arguments = call(mmfs_attention_case(batch=1, num_queries=1, dim=64), torch.bfloat16)
    given = arguments_of(**arguments)
    lines = "\n".join(explanation.of_cuda(given, num_sms=132, shared_bytes=227 * 1024, deterministic=deterministic))
    assert "forward: mmfs_mmfs_attention_forward_bfloat16_8_8_1, 1 x 2 x 6 blocks of 128 threads" in lines
    assert "forward: mmfs_merge_splits_bfloat16" in lines
    assert "split over 6 blocks" in lines
    assert "backward: mmfs_mmfs_attention_backward_bfloat16" in lines
    assert ("backward: mmfs_map_gradient_bfloat16_1_2" in lines) == deterministic
    assert (
        "in a fixed order, in torch.float32, because torch.use_deterministic_algorithms is on" in lines
    ) == deterministic
    assert ("by atomic additions, whose order is not fixed, in torch.float32, because a pixel" in lines) == (
        not deterministic
    )


def test_the_gradient_of_a_small_map_is_a_product_of_matrices() -> None:
    arguments = call(mmfs_attention_case(num_queries=300, dim=64), torch.bfloat16)
    given = arguments_of(**arguments)
    lines = explanation.of_cuda(given, num_sms=12, shared_bytes=227 * 1024, deterministic=False)
    assert "backward: mmfs_dense_gradient_bfloat16_8, 6 x 2 x 1 blocks of 256 threads" in "\n".join(lines)
    assert any(line.startswith("gradient of value as a product of matrices on tensor cores") for line in lines)


def test_what_the_call_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_weights has shape"):
        mmfs.explain(mmfs.ms_deform_attn, **(call(ms_deform_attn_case()) | {"attention_weights": torch.ones(2)}))
    no_tensor = {"sampling_locations": [0.5], "num_points": [3, 3, 3]}
    with pytest.raises(TypeError, match=r"sampling_locations is a list. Expected a tensor"):
        mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case()) | no_tensor)
    with pytest.raises(ValueError, match="backend='cuda' cannot be used: value is on cpu"):
        mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case()), backend="cuda")
    with pytest.raises(TypeError, match=r"op is .* Expected mmfs.ms_deform_attn or mmfs.mmfs_attention"):
        mmfs.explain(torch.add, torch.ones(1), torch.ones(1))
    with pytest.raises(TypeError, match=r"^op is MSDeformAttn. Expected mmfs.ms_deform_attn or mmfs.mmfs_attention.$"):
        mmfs.explain(mmfs.MSDeformAttn(8, 1, 1, 1), torch.ones(1))


def test_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was computed")

    for name in ("ms_deform_attn_forward", "ms_deform_attn_backward"):
        monkeypatch.setattr(compiled, name, refuse)
    assert "ms_deform_attn, value [2, 34, 2, 3]" in mmfs.explain(mmfs.ms_deform_attn, **call(ms_deform_attn_case()))
