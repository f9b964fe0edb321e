import io
import weakref
from functools import partial

import pytest
import torch
from safetensors.torch import load, save

from models.safetensors_writer import CODES, LazyTensor, gather_tensors, write_safetensors


def written(tensors):
    stream = io.BytesIO()
    write_safetensors(stream, tensors)
    return stream.getvalue()


@pytest.mark.parametrize("names", [["a"], ["b.weight", "a", 'a\\é"\n'], []])
def test_the_same_bytes_as_safetensors_writes(names):
    """Every type, none, one and many numbers, and names that JSON has to escape."""
    shapes = [(3, 5), (), (0, 4), (7,)]
    tensors = {
        f"{name}{code}{number}": torch.randint(0, 2, shape).to(dtype)
        for name in names
        for dtype, code in CODES.items()
        for number, shape in enumerate(shapes)
    }
    assert written(tensors) == save(tensors, metadata={"format": "pt"})


def test_one_tensor_is_there_at_a_time():
    """Where it is written, and where a process only gives its part."""
    computed = []

    def compute(number):
        assert not [tensor for tensor in computed if tensor() is not None], "the one before is still there"
        tensor = torch.full((2, 2), float(number))
        computed.append(weakref.ref(tensor))
        return tensor

    lazy = {str(n): LazyTensor(torch.float32, torch.Size((2, 2)), partial(compute, n)) for n in range(5)}
    loaded = load(written(lazy))
    assert {name: float(tensor[0, 0]) for name, tensor in loaded.items()} == {str(n): n for n in range(5)}
    gather_tensors(lazy)
    assert len(computed) == 10


def test_what_is_not_contiguous_is_written_in_order():
    tensor = torch.arange(12.0).reshape(3, 4).t()
    assert torch.equal(load(written({"a": tensor}))["a"], tensor)
