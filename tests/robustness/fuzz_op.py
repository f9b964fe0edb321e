"""Random calls of both ops through every implementation: each gives what the reference gives, or refuses in its words.

    PYTHONPATH=.:tests python tests/robustness/fuzz_op.py --minutes 30 --seed 0

Half of the time every implementation computes: PyTorch's own operators, every build of the compiled kernel, the CUDA
sources on the CPU, the TensorRT plugin's launches of them, and the ONNX function and the custom operators in
onnxruntime; the other half, every
build of the compiled kernel under GCC's sanitizers for addresses and undefined behaviour. The CUDA sources and the C++
plugin run under the sanitizer for undefined behaviour always. A case is a function of the seed and its number:

    PYTHONPATH=.:tests python tests/robustness/fuzz_op.py --seed 0 --case 1234

computes one again, in this process. A case that kills its process is told by its number too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import mmfs
import mmfs.onnxruntime
from emulated_device import EmulatedDevice
from mmfs import autograd, compiled, cuda, embedding_bag
from mmfs.arguments import MMFSAttentionArguments
from mmfs.functional import with_lists
from onnx_models import one_node_model
from onnx_models import run as run_model
from plugin_library import call_of, compile_plugin
from plugins_trt.launches import Address, instances_of, launches, workspace_bytes
from plugins_trt.node_contract import INPUTS, WEIGHTS, Node
from plugins_trt.onnx_function import attach_functions
from random_nodes import NodeCall, random_node
from random_op_calls import OpCall, random_call
from sanitizers import ROOT, SOURCE, UNDEFINED, compile_library, environment, fixed_addresses, setup_script, why_not

Outcome = dict[str, Tensor] | Exception
Implementation = Callable[[OpCall], Outcome]

OPS: dict[str, Callable[..., Tensor]] = {
    "ms_deform_attn": mmfs.ms_deform_attn,
    "mmfs_attention": mmfs.mmfs_attention,
}
CUSTOM_OPERATORS = "onnx, custom operators"
SENTENCES = (ValueError, TypeError)
"""What a refusal is; anything else is a finding."""

OF_NUMBERS = ("visible holds the range", "image_indices holds", "spatial_shapes describe")
"""How sentences begin that need a look at numbers: the CUDA kernels and a graph make NaN instead."""

FLOORS = {torch.float64: 1e-12, torch.float32: 8e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def run_public(call: OpCall, backend: Any = None) -> Outcome:
    """The op as a user calls it: the output and, by name, the gradients; or what was raised."""
    torch.use_deterministic_algorithms(True)  # with which torch.empty fills its memory with NaN
    try:
        leaves = {name: as_leaf(tensor) for name, tensor in call.tensors.items()}
        out = OPS[call.op](**leaves, **call.rest, backend=backend)
        weighting = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
        gradients = torch.autograd.grad(out, list(leaves.values()), weighting, allow_unused=True)
    except Exception as error:
        return error
    finally:
        torch.use_deterministic_algorithms(False)
    named = zip(leaves.items(), gradients, strict=True)
    return {
        "output": out.detach(),
        **{name: torch.zeros_like(leaf) if gradient is None else gradient for (name, leaf), gradient in named},
    }


def as_leaf(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOORS:
        return tensor
    return tensor.detach().requires_grad_()


def in_float64(call: OpCall) -> OpCall:
    return OpCall(call.op, {name: tensor.double() for name, tensor in call.tensors.items()}, call.rest)


@contextlib.contextmanager
def computed_by(module: Any, build: str | None = None, device: EmulatedDevice | None = None) -> Iterator[None]:
    """Calls on a CPU go to one of the modules that compute: a build of the compiled kernel, or a stand-in for a GPU."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(autograd, "implementation", return_value=module))
        if build is not None:
            stack.enter_context(mock.patch.object(compiled, "best_instruction_set", return_value=build))
        if device is not None:
            stack.enter_context(mock.patch.object(cuda, "_device", return_value=device))
        yield


def run_fallback(call: OpCall) -> Outcome:
    with computed_by(embedding_bag):
        return run_public(call)


def compiled_by(build: str) -> Implementation:
    def run(call: OpCall) -> Outcome:
        with computed_by(compiled, build):
            return run_public(call)

    return run


def emulated_on(device: EmulatedDevice) -> Implementation:
    def run(call: OpCall) -> Outcome:
        device.num_sms, device.falling = len(str(call)) % 3 * 12 + 1, bool(len(str(call)) % 2)
        device.launched.clear()
        with computed_by(cuda, device=device):
            return run_public(call)

    return run


def node_of(call: OpCall) -> str:
    if call.op == "ms_deform_attn":
        return "MSDeformAttn"
    return "MMFS" if "visible" in call.rest else "MMFSImageLists"


def node_inputs(call: OpCall) -> tuple[Node, list[Tensor]] | None:
    """The node and its inputs that a runtime gets from a call; None for a call that nodes do not take."""
    shapes = call.rest["spatial_shapes"]
    value = call.tensors["value"]
    if (isinstance(shapes, Tensor) and shapes.ndim == 3) or value.dtype == torch.float64:
        return None
    tensors = dict(call.tensors)
    if call.op == "mmfs_attention":
        logits = tensors["attention_logits"]
        batch, num_queries, num_heads, num_levels, num_points = logits.shape
        tensors.setdefault("offset_table", torch.zeros(1, num_heads, num_points, 2))
        tensors.setdefault("logit_table", torch.zeros(1, num_heads, num_levels, num_points))
        tensors.setdefault("null_value", value.new_zeros(num_heads, value.shape[-1]))
        if "visible" in call.rest:
            tensors["reference_points"] = tensors["reference_points"].expand(batch, num_queries, 2)
            tensors["visible"] = call.rest["visible"].long()
        else:
            given = MMFSAttentionArguments(
                spatial_shapes=[], image_indices=call.rest["image_indices"].long(), **tensors
            )
            completed = with_lists(given)._asdict()
            tensors = {name: part for name, part in completed.items() if isinstance(part, Tensor)}
    null_logit = call.rest.get("null_logit")
    pairs = shapes.tolist() if isinstance(shapes, Tensor) else shapes
    node = Node(node_of(call), tuple(side for pair in pairs for side in pair), null_logit)
    # As a runtime holds them: contiguous copies at whole addresses.
    return node, [
        tensors[name].resolve_neg().clone(memory_format=torch.contiguous_format) for name in INPUTS[node.operator]
    ]


def plugin_on(device: EmulatedDevice) -> Implementation:
    def run(call: OpCall) -> Outcome:
        if (given := node_inputs(call)) is None:
            return {}
        node, inputs = given
        shapes = [tuple(tensor.shape) for tensor in inputs]
        value = inputs[0]
        if any(tensor.dtype == torch.float64 for tensor in inputs):
            return {}
        weights = inputs[INPUTS[node.operator].index(WEIGHTS[node.operator])]
        out = torch.full((*weights.shape[:2], value.shape[2] * value.shape[3]), torch.nan, dtype=value.dtype)
        scratch = torch.full((workspace_bytes(node, shapes, value.dtype),), 0xFF, dtype=torch.uint8)
        addresses = [Address(tensor.data_ptr(), tensor.dtype) for tensor in inputs]
        output = Address(out.data_ptr(), out.dtype)
        num_sms = len(str(call)) % 3 * 12 + 1
        for packed in launches(node, shapes, addresses, output, scratch.data_ptr(), num_sms):
            device.launch_packed(packed, inputs, [out, scratch])
        return {"output": out}

    return run


def run_onnx(call: OpCall, *, custom_operators: bool = False) -> Outcome:
    if (given := node_inputs(call)) is None or call.tensors["value"].dtype == torch.bfloat16:
        return {}
    node, inputs = given
    if any(tensor.dtype == torch.bfloat16 for tensor in inputs):
        return {}  # NumPy, by which onnxruntime takes tensors, has no such type
    named = dict(zip(INPUTS[node.operator], inputs, strict=True))
    attributes: dict[str, Any] = {"spatial_shapes": list(node.spatial_shapes)}
    if node.is_mmfs_attention:
        attributes |= {"null_logit": float(node.null_logit or 0.0), "use_null": int(node.null_logit is not None)}
    model = attach_functions(one_node_model(node.operator, named, **attributes))
    return {"output": run_model(model, named, custom_operators=custom_operators)}


# ---------------------------------------------------------------------------------------------------------------------
# What they have to answer


def findings_of(call: OpCall, implementations: dict[str, Implementation]) -> list[str]:
    """What is wrong with a call, a sentence each."""
    expected = run_public(call, "reference")
    if isinstance(expected, Exception):
        if not isinstance(expected, SENTENCES):
            return [f"the reference raises {described(expected)}"]
        return list(refused(call, expected, implementations))
    exact = run_public(in_float64(call), "reference")
    assert isinstance(exact, dict), exact
    found = []
    for name, run in implementations.items():
        actual = attempt(run, call)
        if isinstance(actual, Exception):
            if not too_much_for_cuda(name, actual):
                found.append(f"{name} raises {described(actual)}; the reference computes")
        else:
            if name == "cuda" and largest_logit(call) > 50:
                # Its gradients start from the log-sum-exp in the type of accumulation, whose rounding grows with the
                # logits and is an error of all weights. Beyond this size the output alone is compared.
                actual = {"output": actual["output"]}
            found += [f"{name}: {words}" for words in differences(call, actual, expected, exact)]
    return found


def largest_logit(call: OpCall) -> float:
    """The largest finite one, of mmfs_attention."""
    parts = [call.tensors.get(name) for name in ("attention_logits", "logit_table")]
    found = [
        float(part.double().nan_to_num(0, 0, 0).abs().max()) for part in parts if part is not None and part.numel()
    ]
    return max([abs(float(call.rest.get("null_logit") or 0.0)), *found])


def attempt(run: Implementation, call: OpCall) -> Outcome:
    try:
        return run(call)
    except Exception as error:
        return error


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def too_much_for_cuda(name: str, error: Exception) -> bool:
    return name in ("cuda", "plugin") and isinstance(error, ValueError) and "CUDA kernels take" in str(error)


def refused(call: OpCall, expected: Exception, implementations: dict[str, Implementation]) -> Iterator[str]:
    needs_numbers = str(expected).startswith(OF_NUMBERS)
    for name, run in implementations.items():
        if name in ("plugin", "onnx", CUSTOM_OPERATORS) and not needs_numbers:
            continue  # what these are given has passed the checks of shapes and types
        if name == CUSTOM_OPERATORS:
            yield from (f"{name}: {words}" for words in not_refused(attempt(run, call)))
            continue
        if name in ("cuda", "plugin", "onnx") and needs_numbers:
            yield from (f"{name}: {words}" for words in not_nan(call, attempt(run, call)))
            continue
        actual = attempt(run, call)
        if not isinstance(actual, Exception):
            yield f"{name} computes; the reference raises {described(expected)}"
        elif type(actual) is not type(expected) or str(actual) != str(expected):
            yield f"{name} raises {described(actual)}; the reference raises {described(expected)}"


def not_refused(actual: Outcome) -> Iterator[str]:
    """Of a call with ranges or sizes that cannot be, by the custom operators: they raise, in words of their own."""
    if not isinstance(actual, Exception):
        if actual:
            yield "computes where it should raise"
    elif ". Expected " not in str(actual):
        yield f"raises {described(actual)} where it should raise a sentence"


def not_nan(call: OpCall, actual: Outcome) -> Iterator[str]:
    """Of a call with ranges or sizes that cannot be: what is not NaN but has to be, and the reverse."""
    if isinstance(actual, Exception):
        yield f"raises {described(actual)} where it should make NaN"
        return
    if "output" not in actual or not actual["output"].numel():
        return
    shapes = call.rest["spatial_shapes"]
    differ = isinstance(shapes, Tensor) and shapes.ndim == 3
    num_images = len(shapes) if differ else len(call.tensors["value"])
    if "visible" in call.rest:
        visible = call.rest["visible"].long()
        sees = visible[..., 1] > visible[..., 0]
        beyond = sees & ((visible[..., 0] < 0) | (visible[..., 1] > num_images))
        mended = {"visible": visible.masked_fill(beyond[..., None], 0)}
    else:
        lists = call.rest["image_indices"].long()
        beyond = ((lists < -1) | (lists >= num_images)).any(-1)
        sees = beyond | (lists >= 0).any(-1)
        mended = {"image_indices": lists.masked_fill(beyond[..., None], -1)}
    amended = OpCall(call.op, call.tensors, call.rest | mended, [], True)
    expected = run_public(amended, "reference")
    if isinstance(expected, Exception):  # sizes that do not fit
        beyond = sees
    if not actual["output"][beyond].isnan().all():
        yield "a query with a range beyond the bank, or with sizes that do not fit, is not NaN"
    if isinstance(expected, dict):
        output, wanted = actual["output"][~beyond], expected["output"][~beyond]
        exact = run_public(in_float64(amended), "reference")
        assert isinstance(exact, dict)
        yield from differences(amended, {"output": output}, {"output": wanted}, {"output": exact["output"][~beyond]})


def differences(
    call: OpCall, actual: dict[str, Tensor], baseline: dict[str, Tensor], exact: dict[str, Tensor]
) -> Iterator[str]:
    """Where a result is further from the exact one than rounding takes it.

    Args:
        call: for how large its numbers are.
        actual: what an implementation gave; without some of the gradients, or empty, if it has none.
        baseline: the reference in the types of the call.
        exact: the reference in float64.
    """
    for name, tensor in actual.items():
        wanted = baseline[name]
        if name != "output" and not baseline["output"].numel():
            wanted = torch.zeros_like(wanted)  # no output depends on it; autograd's sums may hold 0 * NaN
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            yield f"{name} is {tensor.dtype} {list(tensor.shape)}, not {wanted.dtype} {list(wanted.shape)}"
            continue
        largest = torch.finfo(wanted.dtype).max
        borders = (exact[name].abs() > largest / 1.1) & (exact[name].abs() < largest * 1.1)
        other = (tensor.isfinite() != wanted.isfinite()) & ~borders
        if other.any():
            index = other.nonzero()[0].tolist()
            yield f"{name}{index} is {float(tensor[tuple(index)])}, not {float(wanted[tuple(index)])}"
            continue
        finite = tensor.isfinite() & wanted.isfinite() & exact[name].isfinite()
        if not finite.any():
            continue
        ours, theirs, true = tensor[finite].double(), wanted[finite].double(), exact[name][finite]
        scale = float(true.abs().max()) + 1 + magnitude(call)
        floor = FLOORS[min((part.dtype for part in call.tensors.values()), key=lambda dtype: torch.finfo(dtype).bits)]
        floor = max(FLOORS[wanted.dtype], 8e-6 if floor > 1e-11 else 0) * scale
        budget = 4 * float((theirs - true).abs().max()) + floor
        error = torch.minimum((ours - true).abs(), (ours - theirs).abs())
        if float(error.max()) > budget:
            worst = int(error.argmax())
            yield f"{name} is {float(ours[worst])}, not {float(theirs[worst])} (exactly {float(true[worst])})"


def magnitude(call: OpCall) -> float:
    """How large the numbers may be whose sums are rounded."""
    if not call.large:
        return 0.0
    parts = [call.tensors.get(name) for name in ("value", "null_value", "attention_weights")]
    largest = [
        float(part.double().nan_to_num(0, 0, 0).abs().max()) for part in parts if part is not None and part.numel()
    ]
    product = 1.0
    for number in largest:
        product *= max(1.0, number)
    return 100 * product


def node_findings(given: NodeCall, plugin: Callable[..., str]) -> list[str]:
    """Whether the Python and the C++ plugin take or refuse the same nodes, and launch the same kernels."""
    call = call_of(given, given.shapes, given.inputs, given.output.pointer, given.workspace, given.num_sms)
    found = []
    for function, expected in (("mmfs_launches", planned_launches), ("mmfs_needs", needs)):
        try:
            wanted: str | Exception = expected(given)
        except Exception as error:
            wanted = error
        answer = plugin(function, ctypes.byref(call))
        if isinstance(wanted, str):
            if answer != wanted:
                found.append(f"{function} of the C++ plugin answers {answer[:200]}; Python {wanted[:200]}")
        elif not isinstance(wanted, ValueError):
            found.append(f"the plugin in Python raises {described(wanted)}")
        elif not answer.startswith("error: "):
            found.append(f"{function} of the C++ plugin takes what Python refuses ({wanted}): {answer[:100]}")
    return found


def planned_launches(given: NodeCall) -> str:
    """As the C++ plugin tells them."""
    node = Node(given.operator, given.spatial_shapes, given.null_logit)
    planned = launches(node, given.shapes, given.inputs, given.output, given.workspace, given.num_sms)
    return "".join(
        f"{packed.launch.instance.name} {' '.join(map(str, packed.launch.grid))} {packed.launch.threads} "
        f"{packed.launch.shared_bytes} {packed.arguments.hex()}\n"
        for packed in planned
    )


def needs(given: NodeCall) -> str:
    """As the C++ plugin tells them: bytes of scratch memory, and kernels."""
    node, dtype = Node(given.operator, given.spatial_shapes, given.null_logit), given.inputs[0].dtype
    scratch = workspace_bytes(node, given.shapes, dtype)
    return " ".join((str(scratch), *(one.name for one in instances_of(node, given.shapes[0][3], dtype))))


# ---------------------------------------------------------------------------------------------------------------------
# Cases by number


def compile_sanitized(folder: Path) -> None:
    """Every build of the compiled kernel with sanitizers, to a folder."""
    for build in setup_script().instruction_sets():
        compile_library(SOURCE, folder / f"_cpu_{build}.so", f"address,{UNDEFINED}", build)


class Fuzzer:
    """Computes cases by their numbers.

    Args:
        folder: for what is compiled.
        sanitized: the folder of sanitized builds of the compiled kernel: they alone are compared with the reference.
    """

    def __init__(self, folder: Path, sanitized: Path | None) -> None:
        self.plugin: Callable[..., str] | None = None
        self.implementations: dict[str, Implementation] = {}
        if sanitized is not None:
            compiled.FOLDER = sanitized
        if compiled.why_no_library() is None:
            builds = [name for name in compiled.INSTRUCTION_SETS if not compiled.why_not_instruction_set(name)]
            self.implementations |= {build: compiled_by(build) for build in builds}
        if sanitized is None:
            flags = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
            device = EmulatedDevice(folder, [*flags, "-Wno-clobbered"])  # a false alarm about threads that are fibres
            self.implementations |= {
                "fallback": run_fallback,
                "cuda": emulated_on(device),
                "plugin": plugin_on(device),
                "onnx": run_onnx,
            }
            if mmfs.onnxruntime.why_not() is None:
                self.implementations[CUSTOM_OPERATORS] = partial(run_onnx, custom_operators=True)
            self.plugin = compile_plugin(folder / "plugin.so", flags)

    def findings(self, seed: int, number: int) -> list[str]:
        rng = random.Random(f"{seed}/{number}")
        if self.plugin is not None and number % 4 == 3:
            found = []
            for _ in range(20):
                node = random_node(rng)
                found += [f"{words}\n    {node}" for words in node_findings(node, self.plugin)]
            return found
        call = random_call(rng)
        return [f"{words}\n    {call}" for words in findings_of(call, self.implementations)]


def work(seed: int, first: int, step: int, seconds: float, most: int, sanitized: Path | None) -> None:
    """Computes cases first, first + step, ... and tells on standard output what the parent reads."""
    faulthandler.enable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), sanitized)
        end = time.monotonic() + seconds
        number = first
        while time.monotonic() < end and (number - first) // step < most:
            print(f"case {number}", flush=True)
            for words in fuzzer.findings(seed, number):
                print(f"finding {words!r}", flush=True)
            number += step
    print("done", flush=True)


def fuzz(
    seed: int, seconds: float, most: int, sanitized: Path | None, report: Callable[[str], None]
) -> tuple[int, int]:
    """Cases in a process of its own, begun again where one kills it. Returns how many there were, and findings."""
    first, cases, findings, end = 0, 0, 0, time.monotonic() + seconds
    while time.monotonic() < end and cases < most:
        options = ["--seed", str(seed), "--first", str(first), "--seconds", str(end - time.monotonic())]
        options += ["--most", str(most - cases), *(["--sanitized", str(sanitized)] if sanitized else [])]
        begin = fixed_addresses() if sanitized else []
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                [*begin, sys.executable, __file__, "--work", *options],
                env=(environment("libasan.so") if sanitized else os.environ) | paths,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )
            assert child.stdout is not None
            with child.stdout as lines:
                last = ""
                for line in lines:
                    last = line.split()[0]
                    if last == "case":
                        first, cases = int(line.split()[1]) + 1, cases + 1
                    elif last == "finding":
                        findings += 1
                        report(f"seed {seed}, case {first - 1}: {line.removeprefix('finding ').strip()}")
            if child.wait() == 0 and last == "done":
                break
            findings += 1
            errors.seek(0)
            what = f"ended its process with {child.returncode}" if cases else "could not be begun"
            report(f"seed {seed}, case {first - 1} {what}: {errors.read()[:3000]}")
            if not cases:
                break
    return cases, findings


# ---------------------------------------------------------------------------------------------------------------------
# As a test, and as a command


@pytest.mark.slow
@pytest.mark.parametrize("sanitized", [False, True], ids=["every-implementation", "sanitizers"])
def test_every_implementation_gives_what_the_reference_gives(tmp_path: Path, sanitized: bool) -> None:
    if (reason := why_not("libasan.so")) is not None:
        pytest.skip(reason)
    if sanitized:
        compile_sanitized(tmp_path)
    found: list[str] = []
    most = 500 if sanitized else 100
    cases, _ = fuzz(14, 600, most, tmp_path if sanitized else None, found.append)
    assert not found, "\n".join(found)
    assert cases == most


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long, both halves together; default 5")
    parser.add_argument("--seed", type=int, default=0, help="of the cases; default 0")
    parser.add_argument("--case", type=int, help="compute this one alone, and show it")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, default=2**62, help=argparse.SUPPRESS)
    parser.add_argument("--sanitized", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.seed, given.first, 1, given.seconds, given.most, given.sanitized)
        return 0
    if (reason := why_not("libasan.so")) is not None:
        print(f"Nothing can be fuzzed here: {reason}.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        if given.case is not None:
            print(random_call(random.Random(f"{given.seed}/{given.case}")))
            found = Fuzzer(Path(folder), None).findings(given.seed, given.case)
            print("\n".join(found) or "nothing found")
            return bool(found)
        compile_sanitized(Path(folder))
        seconds = given.minutes * 30
        total = 0
        for sanitized, words in ((None, "every implementation"), (Path(folder), "the compiled kernel with sanitizers")):
            cases, findings = fuzz(given.seed, seconds, 2**62, sanitized, lambda line: print(line, flush=True))
            print(f"{words}: {cases} cases, {findings} findings", flush=True)
            total += findings
    return bool(total)


if __name__ == "__main__":
    sys.exit(main())
