"""Loading and generating do not depend on `torch.set_default_dtype` and `torch.set_default_device`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models import MMInterleaved
from models.torch_defaults import usual_torch_defaults

ASKED = {"temperature": 1.0, "max_new_tokens": 6, "num_inference_steps": 2}


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    """As if a program had set them, and back to none."""
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")]
)
def test_loading_and_generating(model: MMInterleaved, tmp_path: Path, dtype: torch.dtype, device: str) -> None:
    model.save_pretrained(tmp_path)
    document = ["ab", torch.rand(3, 32, 32)]
    written = model.generate(document, **ASKED)
    drawn = model.generate(document, mode="image", num_inference_steps=2)
    scores = model.score(document, ["a", "bc"])
    with defaults(dtype, device):
        loaded = MMInterleaved.from_pretrained(tmp_path)
        assert {p.dtype for p in loaded.parameters()} | {
            b.dtype for b in loaded.buffers() if b.is_floating_point()
        } == {torch.float32}
        assert {p.device.type for p in loaded.parameters()} == {"cpu"}
        assert loaded.generate(document, **ASKED) == written
        assert loaded.generate(document, mode="image", num_inference_steps=2) == drawn
        again = loaded.score(document, ["a", "bc"])
        assert [one.log_probability for one in again] == pytest.approx([one.log_probability for one in scores])
        for _ in loaded.generate_stream(document, **ASKED):
            assert torch.get_default_dtype() == dtype, "between two pieces, the caller's own hold"
            assert torch.get_default_device().type == device
        assert torch.get_default_dtype() == dtype
        assert torch.get_default_device().type == device


def test_inside_all_is_as_usual() -> None:
    with defaults(torch.float64, "meta"):
        with usual_torch_defaults():
            assert (torch.zeros(1).dtype, torch.zeros(1).device.type) == (torch.float32, "cpu")
        with pytest.raises(KeyError), usual_torch_defaults():
            raise KeyError
        assert (torch.zeros(1).dtype, torch.zeros(1).device.type) == (torch.float64, "meta")
