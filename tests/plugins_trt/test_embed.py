from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest
import torch

from mmfs.kernels.nvrtc import NvrtcError, find_nvrtc
from plugins_trt.embed import CHANNELS, entries, instances, main
from plugins_trt.launches import instances_of
from plugins_trt.node_contract import VALUE_TYPES, Node


def test_every_kernel_of_both_nodes_is_there_once() -> None:
    found = instances(CHANNELS, VALUE_TYPES)
    assert len({instance.name for instance in found}) == len(found)
    for node in (Node("MMFS", (9, 9)), Node("MSDeformAttn", (5, 5))):
        assert set(instances_of(node, 64, torch.bfloat16)) <= set(found)
    # D = 32 and 64 of half types share their kernels.
    assert len(instances((32, 64), [torch.float16])) == 4


def test_a_compiler_reads_the_bytes_that_were_written() -> None:
    data = random.Random(3).randbytes(5000) + b"\0" + b"0123456789" * 50 + b'"\\?'
    text = "".join(entries({"k@sm_90": data, "k@sm_80": b""}))
    (name, content, size), (other, nothing, zero) = re.findall(r'\{"(.*?)",\n(.*?) , (\d+)\},\n', text, re.DOTALL)
    assert (name, int(size), other, nothing, zero) == ("k@sm_90", len(data), "k@sm_80", "", "0")
    literals = re.findall(r'^ "((?:\\[0-7]{3})*)"$', content, re.MULTILINE)
    assert bytes(int(digits, 8) for literal in literals for digits in literal.split("\\")[1:]) == data


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "embedded.inc"
    out.write_text("earlier")
    monkeypatch.setattr(sys, "argv", ["embed", str(out), "--channels", "8", "--architectures", "sm_1"])
    with pytest.raises(NvrtcError, match="sm_1"):
        main()
    assert out.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["embedded.inc"]
