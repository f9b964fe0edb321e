"""Several threads, and several streams in one thread, use one model at the same time: each gets what it gets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.batch import Batch
from models.folded_mmfs import FoldedMMFS
from models.generation.generated import Preview
from models.torch_defaults import usual_torch_defaults
from numerics import FLOAT32_ROUNDING
from rows import pack_rows
from tiny_snapshots import byte_tokenizer

NUM_THREADS = 8
DOCUMENTS: list[list[Any]] = [
    [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) * (1 + seed) / 8, f"what is {seed}?"]
    for seed in range(NUM_THREADS)
]
ASKED = {"temperature": 1.0, "max_new_tokens": 6, "num_inference_steps": 3, "seed": 0}
CANDIDATES = ["a cat", "no", "something else"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@pytest.fixture
def model() -> MMInterleaved:
    """A tiny model, in which a wrong image is a large error."""
    processor = MMInterleavedProcessor(byte_tokenizer("<pad>", "<s>", "</s>", "<BoI>", "<image>"), image_size=32)
    model = MMInterleaved(MMInterleavedConfig.tiny(), processor).eval()
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.5)
    for synchronizer in model.language_model.synchronizers:
        torch.nn.init.constant_(synchronizer.gate, 3.0)
        torch.nn.init.normal_(synchronizer.mmfs.sampling_offsets.weight, std=0.3)
        torch.nn.init.normal_(synchronizer.mmfs.output_proj.weight)
    with torch.no_grad():
        model.language_model.host.get_output_embeddings().weight.mul_(30)  # so that words depend on the states
    return model


def batch_of(number: int) -> Batch:
    """One that has other words and images than those of other numbers."""
    words = range(9 + number, 16 + number)
    batch = pack_rows([[["image", *words, "draw", 11]], [[9, 10], ["image", 12 + number, "image", "draw"]]])
    generator = torch.Generator().manual_seed(number)
    return replace(batch, pixel_values=torch.rand(batch.pixel_values.shape, generator=generator))


def at_once(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function of each item, each in a thread of its own, begun together."""
    begin = Barrier(len(items))

    def one(item: Item) -> Result:
        begin.wait()
        return function(item)

    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(one, items))


def assert_same_pieces(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Texts, and images up to rounding."""
    assert [type(piece) for piece in found] == [type(piece) for piece in expected]
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, Image.Image):
            difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max()
            assert difference <= 1, "a wrong image is off by tens"
        elif not isinstance(theirs, Preview):
            assert ours == theirs


@pytest.mark.parametrize("mode", ["text", "image", "auto"])
def test_generate(model: MMInterleaved, mode: str) -> None:
    def write(document: list[Any]) -> list[Any]:
        return list(model.generate(document, mode=mode, **ASKED))

    alone = [write(document) for document in DOCUMENTS]
    assert len({str(segments) for segments in alone}) > 1, "else it says nothing"
    for _ in range(3):
        for found, expected in zip(at_once(write, DOCUMENTS), alone, strict=True):
            assert_same_pieces(found, expected)


def test_generate_stream(model: MMInterleaved) -> None:
    def pieces(document: list[Any]) -> Iterator[Any]:
        return model.generate_stream(document, preview_every=1, **ASKED)

    def write(document: list[Any]) -> list[Any]:
        return list(pieces(document))

    alone = [write(document) for document in DOCUMENTS]
    for found, expected in zip(at_once(write, DOCUMENTS), alone, strict=True):
        assert_same_pieces(found, expected)

    # In one thread, by turns, with a whole call between each two pieces.
    streams = [pieces(document) for document in DOCUMENTS[:3]]
    written: list[list[Any]] = [[] for _ in streams]
    going = list(range(len(streams)))
    while going:
        for number in list(going):
            piece = next(streams[number], None)
            if piece is None:
                going.remove(number)
            else:
                written[number].append(piece)
            model.score(DOCUMENTS[-1], CANDIDATES)
    for found, expected in zip(written, alone, strict=False):
        assert_same_pieces(found, expected)


def test_score(model: MMInterleaved) -> None:
    def scores(document: list[Any]) -> list[float]:
        return [score.log_probability for score in model.score(document, CANDIDATES)]

    alone = [scores(document) for document in DOCUMENTS]
    assert max(alone)[0] - min(alone)[0] > 1e-2, "else it says nothing"
    for _ in range(5):
        for found, expected in zip(at_once(scores, DOCUMENTS), alone, strict=True):
            assert found == pytest.approx(expected, rel=FLOAT32_ROUNDING)


def loss_and_gradients(model: MMInterleaved, batch: Batch) -> tuple[float, list[Tensor | None]]:
    loss = model(batch).loss
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return float(loss.detach()), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def assert_same_gradients(
    found: tuple[float, list[Tensor | None]], expected: tuple[float, list[Tensor | None]]
) -> None:
    assert found[0] == pytest.approx(expected[0], rel=FLOAT32_ROUNDING)
    largest = max(float(gradient.abs().max()) for gradient in expected[1] if gradient is not None)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * FLOAT32_ROUNDING * largest)


# The compiler itself looks there.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "how",
    [
        "as it is",
        "recomputed",
        pytest.param("compiled", marks=pytest.mark.slow),
        pytest.param("compiled and recomputed", marks=pytest.mark.slow),
    ],
)
def test_forward_and_backward(model: MMInterleaved, how: str) -> None:
    model.train()
    batches = [batch_of(number) for number in range(NUM_THREADS)]
    alone = [loss_and_gradients(model, batch) for batch in batches]
    if "recomputed" in how:
        model.gradient_checkpointing_enable()
    if "compiled" in how:
        for layer in model.language_model.decoder.layers:
            layer.compile(backend="eager", dynamic=True)
    for _ in range(2):
        found = at_once(lambda batch: loss_and_gradients(model, batch), batches)
        for one, expected in zip(found, alone, strict=True):
            assert_same_gradients(one, expected)


def test_a_backward_in_another_thread_while_others_run(model: MMInterleaved) -> None:
    """Autograd recomputes a checkpointed layer in whatever thread its device has."""
    model.train()
    batches = [batch_of(number) for number in range(NUM_THREADS)]
    alone = [loss_and_gradients(model, batch) for batch in batches]
    model.gradient_checkpointing_enable()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = at_once(lambda batch: model(batch).loss, batches)
    others = [*losses[1:], losses[0]]  # each thread gets what another began
    found = at_once(lambda loss: torch.autograd.grad(loss, parameters, allow_unused=True), others)
    for loss, gradients, expected in zip(others, found, [*alone[1:], alone[0]], strict=True):
        assert_same_gradients((float(loss.detach()), list(gradients)), expected)


def test_a_model_is_folded_once_for_all_of_them(model: MMInterleaved) -> None:
    def folded(_: int) -> list[FoldedMMFS | None]:
        return list(model.begin_generation(1).folded or ())

    first, *others = at_once(folded, range(NUM_THREADS))
    assert first
    assert all(one is own for other in others for one, own in zip(other, first, strict=True))


def test_the_default_dtype_is_put_back_by_the_last_thread() -> None:
    """PyTorch has one default for all threads."""
    everybody_is_in = Barrier(NUM_THREADS)

    def inside(number: int) -> torch.dtype:
        with usual_torch_defaults():
            everybody_is_in.wait()
            # The first one leaves while the others go on.
            if number:
                first_is_out.wait()
            made = torch.zeros(1).dtype
        if not number:
            first_is_out.wait()
        return made

    first_is_out = Barrier(NUM_THREADS)
    torch.set_default_dtype(torch.float64)
    try:
        assert set(at_once(inside, range(NUM_THREADS))) == {torch.float32}
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
