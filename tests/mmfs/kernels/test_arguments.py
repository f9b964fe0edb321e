"""Python packs what C++ declares."""

from __future__ import annotations

import re
import struct
from dataclasses import fields
from pathlib import Path

import torch

import mmfs.kernels
from mmfs.kernels.arguments import LAYOUT, MAX_LEVELS, KernelArguments

DECLARED = (Path(mmfs.kernels.__file__).parent / "arguments.cuh").read_text()


def test_members_have_the_names_order_and_kinds_that_the_structure_declares() -> None:
    body = DECLARED.partition("struct Arguments {")[2].partition("\n};")[0]
    declared = re.findall(r"^ +([\w ]+?[ *]+)(\w+)(?:\[MAX_LEVELS\])?;", body, flags=re.MULTILINE)
    assert [name for _, name in declared] == [field.name for field in fields(KernelArguments)]
    size = sum(
        8 * (MAX_LEVELS if name in ("heights", "widths") else 2 if kind.strip() == "Array" else 1)
        for kind, name in declared
    )
    assert size == LAYOUT.size
    assert f"MAX_LEVELS = {MAX_LEVELS};" in DECLARED


def test_pack() -> None:
    value, points = torch.zeros(1, 6, 2, 3), torch.zeros(5, 2, dtype=torch.bfloat16)
    arguments = KernelArguments(
        num_rows=5,
        num_queries=5,
        num_images=1,
        num_pixels=6,
        pixels_per_image=6,
        num_heads=2,
        num_channels=3,
        num_levels=1,
        num_points=4,
        null_logit=-1.5,
        heights=(2,),
        widths=(3,),
        value=value,
        points=points,
    )
    words = struct.unpack(f"<{LAYOUT.size // 8}q", arguments.pack())
    assert words[:13] == (5, 5, 1, 6, 6, 2, 3, 1, 4, 1, 1, 1, 1)
    assert struct.pack("<q", words[20]) == struct.pack("<d", -1.5)
    assert words[21:23] == (2, 0)
    assert words[37:39] == (3, 0)
    assert words[53:56] == (0, 0, 0), "tensors that are not given"
    assert words[56] == value.data_ptr()
    assert words[57:61] == (0, 0, 0, 0), "locations and weights, which are not given"
    assert words[61:63] == (points.data_ptr(), 3), "a pointer with its dtype"
    assert arguments.tensors().keys() == {"value", "points"}
