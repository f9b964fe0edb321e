"""Both ops and their gradients by the compiled CPU kernel, kernels/cpu.cpp: the same functions as embedding_bag.py.

setup.py compiles it once for each instruction set if the machine that builds the wheel has a C++ compiler. The
libraries have a plain C interface and are loaded with ctypes, so one wheel serves every version of Python and PyTorch.
`why_not` says why it cannot be used; embedding_bag.py takes over then.

Letters as in reference.py.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmfs.arguments import (
    MMFSAttentionArguments,
    MMFSAttentionGradients,
    MSDeformAttnArguments,
    MSDeformAttnGradients,
    contiguous_and_aligned,
)
from mmfs.reference import accumulation_dtype, image_planes, seen_images
from mmfs.without_output import check_numbers, zero_mmfs_attention_gradients, zero_ms_deform_attn_gradients

InstructionSet = Literal["avx512", "avx2", "portable"]

INSTRUCTION_SETS: tuple[InstructionSet, ...] = ("avx512", "avx2", "portable")
"""The fastest first."""

TITLES: dict[InstructionSet, str] = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "portable instructions"}
"""The instruction sets as they are written in sentences."""

FOLDER = Path(__file__).parent
"""Where the libraries lie: beside this file, in a wheel and in an editable checkout alike."""

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""Storage of kernels/cpu.cpp."""

INTERFACE_VERSION = 5
"""INTERFACE_VERSION of kernels/cpu.cpp. A library of another one would read the structures below wrongly."""

DONE, NO_MEMORY = 0, 3
"""Status of kernels/cpu.cpp; anything else is about sizes."""

LARGEST_ELEMENT = 8
"""Bytes: an address that is a multiple of it suits every dtype."""

LARGEST_INT64 = 2**63 - 1

ADDRESS_OF_NONE = id(None)
"""In CPython, where libraries of C are called."""

PARAMETERS = MMFSAttentionGradients._fields[1:]
"""What has a gradient besides value: names of fields of MMFSAttentionArguments and of MMFSAttentionCall."""
parameters_of = operator.attrgetter(*PARAMETERS)


class Sizes(ctypes.Structure):
    """CallSizes of kernels/cpu.cpp."""

    _fields_ = (
        ("storage", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("num_queries", ctypes.c_int64),
        ("num_images", ctypes.c_int64),
        ("num_pixels", ctypes.c_int64),
        ("num_heads", ctypes.c_int64),
        ("num_channels", ctypes.c_int64),
        ("num_levels", ctypes.c_int64),
        ("num_points", ctypes.c_int64),
        ("sizes_per_image", ctypes.c_int64),
        ("deterministic", ctypes.c_int64),
        ("spatial_shapes", ctypes.c_void_p),
    )


class MSDeformAttnCall(ctypes.Structure):
    """MSDeformAttnCall of kernels/cpu.cpp."""

    kept: tuple[object, ...]  # what the pointers point into

    _fields_ = (
        ("sizes", Sizes),
        ("value", ctypes.c_void_p),
        ("sampling_locations", ctypes.c_void_p),
        ("attention_weights", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("grad_out", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_sampling_locations", ctypes.c_void_p),
        ("grad_attention_weights", ctypes.c_void_p),
    )


class MMFSAttentionCall(ctypes.Structure):
    """MMFSAttentionCall of kernels/cpu.cpp."""

    kept: tuple[object, ...]  # what the pointers point into

    _fields_ = (
        ("sizes", Sizes),
        ("offset_ages", ctypes.c_int64),
        ("logit_ages", ctypes.c_int64),
        ("has_null", ctypes.c_int64),
        ("null_logit", ctypes.c_double),
        ("num_slots", ctypes.c_int64),
        ("point_levels", ctypes.c_int64),
        ("point_points", ctypes.c_int64),
        ("offset_levels", ctypes.c_int64),
        ("value", ctypes.c_void_p),
        ("reference_points", ctypes.c_void_p),
        ("sampling_offsets", ctypes.c_void_p),
        ("attention_logits", ctypes.c_void_p),
        ("visible", ctypes.c_void_p),
        ("image_indices", ctypes.c_void_p),
        ("offset_table", ctypes.c_void_p),
        ("logit_table", ctypes.c_void_p),
        ("null_value", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("grad_out", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_reference_points", ctypes.c_void_p),
        ("grad_sampling_offsets", ctypes.c_void_p),
        ("grad_attention_logits", ctypes.c_void_p),
        ("grad_offset_table", ctypes.c_void_p),
        ("grad_logit_table", ctypes.c_void_p),
        ("grad_null_value", ctypes.c_void_p),
    )


class ExchangeAPI(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.3: functions of C that PyTorch gives to others."""

    major: int
    describe: int | None

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("earlier", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("export", ctypes.c_void_p),
        ("import", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),  # dltensor_from_py_object_no_sync
        ("current_stream", ctypes.c_void_p),
    )


EXCHANGE_VERSION = 1
"""The major version of DLPack whose structures kernels/cpu_tensors.h reads."""


class Strategy(ctypes.Structure):
    """Strategy of kernels/cpu_bank.h: how a call is computed."""

    num_pieces: int
    num_threads: int
    num_packed: int  # pieces, by how they read rows of value
    num_in_place: int
    num_staged: int
    gradient_in_place: int

    _fields_ = (
        ("num_pieces", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
        ("num_packed", ctypes.c_int64),
        ("num_in_place", ctypes.c_int64),
        ("num_staged", ctypes.c_int64),
        ("gradient_in_place", ctypes.c_int64),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Which library


def why_not(value: Tensor | None = None) -> str | None:
    """Why the compiled kernel cannot be used in this process or, given a value, in a call with it; None if it can."""
    if value is not None and value.device.type != "cpu":
        return f"value is on {value.device}"
    if value is not None and value.dtype not in STORAGE:
        return f"value is {value.dtype}; the kernel computes {', '.join(map(str, STORAGE))}"
    return why_no_library()


@functools.cache
def why_no_library() -> str | None:
    # Cached, because every call asks, and an installation without the kernel stays without it.
    try:
        best_library()
    except OSError as error:
        return str(error)
    return None


@functools.cache
def library(instruction_set: InstructionSet) -> ctypes.CDLL:
    """The library for an instruction set.

    Raises:
        OSError: it was not built, does not load, or has another interface.
    """
    path = FOLDER / f"_cpu_{instruction_set}.so"
    if not path.is_file():
        raise OSError(
            f"this installation of mmfs has no compiled CPU kernel {path.name}: no C++ compiler was found "
            "when it was installed, or compiling failed. Install g++ or clang++ and install mmfs again from source."
        )
    loaded = ctypes.CDLL(str(path))
    version = loaded.mmfs_cpu_interface_version() if hasattr(loaded, "mmfs_cpu_interface_version") else None
    if version != INTERFACE_VERSION:
        found = "no interface version" if version is None else f"interface version {version}"
        raise OSError(
            f"the compiled CPU kernel {path} has {found}, and this version of mmfs needs {INTERFACE_VERSION}: it was "
            "built from other sources. Install mmfs again."
        )
    for name, call in (
        ("mmfs_cpu_ms_deform_attn", MSDeformAttnCall),
        ("mmfs_cpu_ms_deform_attn_backward", MSDeformAttnCall),
        ("mmfs_cpu_mmfs_attention", MMFSAttentionCall),
        ("mmfs_cpu_mmfs_attention_backward", MMFSAttentionCall),
    ):
        function = getattr(loaded, name)
        function.argtypes = (ctypes.POINTER(call),)
        function.restype = ctypes.c_int32
        if not name.endswith("_backward"):
            describe = getattr(loaded, f"{name}_strategy")
            describe.argtypes = (ctypes.POINTER(call), ctypes.c_int32, ctypes.POINTER(Strategy))
            describe.restype = ctypes.c_int32
    return loaded


@functools.cache
def best_instruction_set() -> InstructionSet:
    """The fastest that this processor can run and this installation has.

    Raises:
        OSError: there is no library.
    """
    return next(name for name in INSTRUCTION_SETS if why_not_instruction_set(name) is None)


@functools.cache
def why_not_instruction_set(name: InstructionSet) -> str | None:
    """Why calls cannot take the library for an instruction set; None if they can.

    Raises:
        OSError: there is no portable library, which every installation with the kernel has.
    """
    portable = library("portable")
    if name == "portable":
        return None
    if not getattr(portable, f"mmfs_cpu_has_{name}")():
        return f"this processor has no {TITLES[name]}"
    try:
        library(name)
    except OSError as error:
        return str(error)
    return None


def why_slower() -> str | None:
    """Why calls take a slower library than this processor could, or have to do without AVX2; None if neither is so.

    Raises:
        OSError: there is no library.
    """
    has_avx512 = library("portable").mmfs_cpu_has_avx512()
    return why_not_instruction_set("avx512" if has_avx512 else "avx2")


def best_library() -> ctypes.CDLL:
    return library(best_instruction_set())


@functools.cache
def describe_tensor() -> int | None:
    """The address of PyTorch's function that describes a tensor in C; None for a PyTorch without one."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    api = ExchangeAPI.from_address(pointer_of(capsule, b"dlpack_exchange_api"))
    return api.describe if api.major == EXCHANGE_VERSION else None


@functools.cache
def tensor_reader(instruction_set: InstructionSet) -> Any:
    """mmfs_cpu_read_mmfs_attention of a library. It is called with Python's lock, which PyTorch's function needs."""
    integers, tensors = (ctypes.c_int64,), (ctypes.py_object,)
    prototype = ctypes.PYFUNCTYPE(
        ctypes.c_int32,
        *(ctypes.c_void_p, ctypes.c_void_p, *integers, ctypes.c_void_p, *integers * 3, ctypes.c_double),
        *tensors * 8,
        ctypes.POINTER(MMFSAttentionCall),
    )
    return prototype(("mmfs_cpu_read_mmfs_attention", library(instruction_set)))


# ---------------------------------------------------------------------------------------------------------------------
# The ops


def ms_deform_attn_forward(arguments: MSDeformAttnArguments) -> Tensor:
    """`reference.ms_deform_attn_reference`, without a graph."""
    value = arguments.value
    out = value.new_empty(*arguments.attention_weights.shape[:2], value.shape[2] * value.shape[3])
    if not out.numel():
        return out
    call = ms_deform_attn_call(arguments)
    call.out = out.data_ptr()
    check(best_library().mmfs_cpu_ms_deform_attn(call), value, arguments.spatial_shapes)
    return out


def ms_deform_attn_backward(
    grad_out: Tensor, arguments: MSDeformAttnArguments, needs_value: bool
) -> MSDeformAttnGradients:
    """Gradients of `ms_deform_attn_forward`; of value only if needs_value."""
    value, spatial_shapes, sampling_locations, attention_weights = arguments
    if not grad_out.numel():
        return zero_ms_deform_attn_gradients(arguments, needs_value)
    call = ms_deform_attn_call(arguments)
    dtype = accumulation_dtype(value.dtype)
    grad_out = as_array(grad_out, value.dtype)
    grad_value = empty_like(value) if needs_value else value.new_empty(0)
    grad_locations = empty_like(sampling_locations, dtype)
    grad_weights = empty_like(attention_weights, dtype)
    call.grad_out = grad_out.data_ptr()
    call.grad_value = grad_value.data_ptr() if needs_value else None
    call.grad_sampling_locations = grad_locations.data_ptr()
    call.grad_attention_weights = grad_weights.data_ptr()
    check(best_library().mmfs_cpu_ms_deform_attn_backward(call), value, spatial_shapes)
    return MSDeformAttnGradients(
        grad_value,
        as_array(grad_locations, sampling_locations.dtype),
        as_array(grad_weights, attention_weights.dtype),
    )


def mmfs_attention_forward(arguments: MMFSAttentionArguments) -> Tensor:
    """`reference.mmfs_attention_reference`, without a graph."""
    return output_of(read_mmfs_attention(arguments), arguments)


def mmfs_attention_backward(
    grad_out: Tensor, arguments: MMFSAttentionArguments, needs_value: bool
) -> MMFSAttentionGradients:
    """Gradients of `mmfs_attention_forward`; of value only if needs_value."""
    value, parameters = arguments.value, parameters_of(arguments)
    dtype = accumulation_dtype(value.dtype)
    if not grad_out.numel():
        return zero_mmfs_attention_gradients(arguments, needs_value)
    call = read_mmfs_attention(arguments) or mmfs_attention_call(arguments)
    call.sizes.deterministic = torch.are_deterministic_algorithms_enabled()
    grad_out = as_array(grad_out, value.dtype)
    grad_value = empty_like(value) if needs_value else value.new_empty(0)
    grads = [value.new_empty(0, dtype=dtype) if part is None else empty_like(part, dtype) for part in parameters]
    call.grad_out = grad_out.data_ptr()
    call.grad_value = grad_value.data_ptr() if needs_value else None
    for name, part, grad in zip(PARAMETERS, parameters, grads, strict=True):
        setattr(call, f"grad_{name}", None if part is None else grad.data_ptr())
    check_mmfs_attention(best_library().mmfs_cpu_mmfs_attention_backward(call), arguments)
    return MMFSAttentionGradients(
        grad_value,
        *(grad if part is None else as_array(grad, part.dtype) for part, grad in zip(parameters, grads, strict=True)),
    )


def ms_deform_attn_strategy(arguments: MSDeformAttnArguments, *, is_forward: bool) -> Strategy:
    """How `ms_deform_attn_forward` or `ms_deform_attn_backward` computes: asks the kernel, computes nothing."""
    call, strategy = ms_deform_attn_call(arguments), Strategy()
    status = best_library().mmfs_cpu_ms_deform_attn_strategy(call, is_forward, strategy)
    check(status, arguments.value, arguments.spatial_shapes)
    return strategy


def mmfs_attention_strategy(arguments: MMFSAttentionArguments, *, is_forward: bool) -> Strategy:
    """How `mmfs_attention_forward` or `mmfs_attention_backward` computes: asks the kernel, computes nothing."""
    call, strategy = mmfs_attention_call(arguments), Strategy()
    status = best_library().mmfs_cpu_mmfs_attention_strategy(call, is_forward, strategy)
    check_mmfs_attention(status, arguments)
    return strategy


# ---------------------------------------------------------------------------------------------------------------------
# Calls of mmfs_attention whose tensors are read in C


class Levels(NamedTuple):
    """Sizes of levels that all images have."""

    shapes: ctypes.Array[ctypes.c_int64]  # h, w, h, w, ...
    address: int
    num_levels: int
    num_pixels: int


@functools.lru_cache
def levels_of(sizes: tuple[int, ...]) -> Levels | None:
    """h, w, h, w, ... as the kernel takes them; None if there are none, or they do not fit an int64."""
    if not sizes or min(sizes) < 1:
        return None
    num_pixels = sum(map(operator.mul, sizes[::2], sizes[1::2]))
    if num_pixels > LARGEST_INT64:
        return None
    shapes = flat_shapes(sizes)
    return Levels(shapes, ctypes.addressof(shapes), len(sizes) // 2, num_pixels)


def read_mmfs_attention(arguments: MMFSAttentionArguments) -> MMFSAttentionCall | None:
    """The call without its results, if its arguments are right and the kernel takes all tensors as they are: checked
    and read in C, since a small call costs little more than its checks. None otherwise, and for images that differ in
    size or are listed.

    Args:
        arguments: their shapes, dtypes and devices are checked here. The tensors have the numbers that lie in their
            memory, which those of subclasses need not have. reference_points may have fewer axes than [B, Q, 2], but
            as many numbers. null_logit is a finite float32, or None.
    """
    if arguments.image_shapes is not None or arguments.image_indices is not None:
        return None
    describe, levels = describe_tensor(), levels_of(tuple(arguments.spatial_shapes))
    if describe is None or levels is None:
        return None
    value, _, points, offsets, logits, visible, offset_table, logit_table, null_logit, null_value, *_ = arguments
    call = MMFSAttentionCall()
    try:
        is_read = tensor_reader(best_instruction_set())(
            describe,
            ADDRESS_OF_NONE,
            torch.get_num_threads(),
            levels.address,
            levels.num_levels,
            levels.num_pixels,
            null_logit is not None,
            null_logit or 0.0,
            value,
            points,
            offsets,
            logits,
            visible,
            offset_table,
            logit_table,
            null_value,
            call,
        )
    except RuntimeError:  # PyTorch's, of a tensor without memory: whoever takes the arguments now says what is wrong
        return None
    if not is_read:
        return None
    call.kept = (levels,)
    return call


def output_of(call: MMFSAttentionCall | None, arguments: MMFSAttentionArguments) -> Tensor:
    """Computes a call; None: one that was not read."""
    value, logits = arguments.value, arguments.attention_logits
    batch, num_queries, *_ = logits.shape
    *_, num_heads, num_channels = value.shape
    out = value.new_empty((batch, num_queries, num_heads * num_channels))
    if call is None:
        if not out.numel():
            check_numbers(arguments)
            return out
        call = mmfs_attention_call(arguments)
    call.out = out.data_ptr()
    check_mmfs_attention(best_library().mmfs_cpu_mmfs_attention(call), arguments)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The arguments of a call


def ms_deform_attn_call(arguments: MSDeformAttnArguments) -> MSDeformAttnCall:
    """The call without its results."""
    value, spatial_shapes, sampling_locations, attention_weights = arguments
    dtype = accumulation_dtype(value.dtype)
    value = contiguous_and_aligned(value)
    locations = as_array(sampling_locations, dtype)
    weights = as_array(attention_weights, dtype)
    shapes = flat_shapes(spatial_shapes)
    call = MSDeformAttnCall(
        sizes=sizes_of(value, shapes, attention_weights, num_images=value.shape[0], sizes_per_image=False),
        value=value.data_ptr(),
        sampling_locations=locations.data_ptr(),
        attention_weights=weights.data_ptr(),
    )
    call.kept = (value, locations, weights, shapes)
    return call


def mmfs_attention_call(arguments: MMFSAttentionArguments) -> MMFSAttentionCall:
    """The call without its results."""
    dtype = accumulation_dtype(arguments.value.dtype)
    value = contiguous_and_aligned(arguments.value)
    lists = arguments.image_indices
    seen = as_array(arguments.ranges if lists is None else lists, torch.int64)
    given = [part if part is None else as_array(part, dtype) for part in parameters_of(arguments)]
    offset_table, logit_table, null_logit = arguments.offset_table, arguments.logit_table, arguments.null_logit
    shapes = flat_shapes(arguments.sizes)
    sizes_per_image = arguments.image_shapes is not None
    num_images = len(arguments.sizes) if sizes_per_image else value.shape[0]
    call = MMFSAttentionCall(
        sizes=sizes_of(value, shapes, arguments.attention_logits, num_images, sizes_per_image),
        offset_ages=0 if offset_table is None else offset_table.shape[0],
        logit_ages=0 if logit_table is None else logit_table.shape[0],
        has_null=null_logit is not None,
        null_logit=null_logit or 0.0,
        num_slots=1,
        point_levels=1,
        point_points=1,
        offset_levels=1,
        value=value.data_ptr(),
        visible=seen.data_ptr() if lists is None else None,
        image_indices=None if lists is None else seen.data_ptr(),
        **{name: None if part is None else part.data_ptr() for name, part in zip(PARAMETERS, given, strict=True)},
    )
    if lists is not None:
        call.num_slots, call.point_levels, call.point_points = arguments.reference_points.shape[2:5]
        call.offset_levels = arguments.sampling_offsets.shape[3]
    call.kept = (value, seen, given, shapes)
    return call


def as_array(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As the kernel reads it, in this dtype."""
    # Asked first: a conversion that converts nothing costs more than the arithmetic of a small call.
    if tensor.dtype == dtype and tensor.is_contiguous() and not tensor.data_ptr() % LARGEST_ELEMENT:
        return tensor
    return contiguous_and_aligned(tensor.to(dtype))


def flat_shapes(spatial_shapes: Sequence[int] | Tensor) -> ctypes.Array[ctypes.c_int64]:
    """h, w, h, w, ... of all levels or, from a tensor [N, L, 2], of all levels of all images."""
    sides = spatial_shapes.flatten().tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    return (ctypes.c_int64 * len(sides))(*sides)


def sizes_of(
    value: Tensor, shapes: ctypes.Array[ctypes.c_int64], logits: Tensor, num_images: int, sizes_per_image: bool
) -> Sizes:
    """logits or attention weights: [B, Q, H, L, P]."""
    batch, num_queries, num_heads, num_levels, num_points = logits.shape
    return Sizes(
        storage=STORAGE[value.dtype],
        num_threads=torch.get_num_threads(),
        batch=batch,
        num_queries=num_queries,
        num_images=num_images,
        num_pixels=value.shape[:-2].numel(),
        num_heads=num_heads,
        num_channels=value.shape[-1],
        num_levels=num_levels,
        num_points=num_points,
        sizes_per_image=sizes_per_image,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        spatial_shapes=ctypes.addressof(shapes),
    )


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)


def check_mmfs_attention(status: int, arguments: MMFSAttentionArguments) -> None:
    """Raises what the status of a call of mmfs_attention stands for."""
    if status not in (DONE, NO_MEMORY):
        planes = image_planes(arguments.value, arguments.sizes)  # raises for sizes that do not fit
        seen_images(arguments, num_images=planes.shape[0])  # raises for images outside the bank
    check(status, arguments.value, arguments.sizes)


def check(status: int, value: Tensor, spatial_shapes: Sequence[int] | Tensor) -> None:
    """Raises what the status of a call stands for."""
    if status == DONE:
        return
    if status == NO_MEMORY:
        raise MemoryError("the compiled CPU kernel of mmfs could not get the memory that it works in")
    image_planes(value, spatial_shapes)  # raises for sizes that do not fit
    raise ValueError(
        f"spatial_shapes is {spatial_shapes}. Expected levels of at most {2**31 - 1} pixels that add up to the pixels "
        "of an image."
    )
