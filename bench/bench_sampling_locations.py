"""What it costs to record where MMFS samples: generate with and without `sampling_locations`, by turns.

What is generated is compared first, and what is recorded has to add up to all of the attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import measure
from bench.model_sides import time_both
from bench.workloads import Scale
from models import MMInterleaved
from models.generation.generated import Generated
from models.images.arrays import tensor_to_image

TOY = Path(__file__).parents[1] / "trainer/weights/toy"


@pytest.mark.parametrize("kind", ["text", "image"])
def bench_recording(kind: str, benchmark: BenchmarkFixture, num_threads: int, scale: Scale) -> None:
    """48 tokens, or an image in 30 steps, behind two images. Targets: recording takes at most 15 % of the time of text
    and 20 % of that of drawing. "bytes" is what is recorded."""
    toy = MMInterleaved.from_pretrained(TOY)
    generator = torch.Generator().manual_seed(0)
    pictures = [tensor_to_image(torch.rand(3, *toy.config.image_size, generator=generator)) for _ in range(2)]
    is_smoke = scale == "smoke"
    options: dict[str, Any] = {"mode": kind}
    if kind == "text":
        num_tokens = 4 if is_smoke else 48
        options |= {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    else:
        options |= {"num_inference_steps": 2 if is_smoke else 30}

    def run(recorded: bool) -> Generated:
        return toy.generate([pictures[0], " a snail ", pictures[1], " a"], sampling_locations=recorded, **options)

    with_, without = run(True), run(False)
    assert with_.text == without.text
    pixels = [[torch.from_numpy(np.array(image)).float() for image in one.images] for one in (with_, without)]
    error = measure.worst_error(*pixels) if kind == "image" else 0.0
    assert error < 0.01, f"recording changes the image, by {error:.1e}"
    locations = with_.sampling_locations
    assert locations is not None
    looked = locations.of_token(0)
    total = sum(looked.share(image) for image in looked.images) + float(torch.stack(looked.null_weights).mean())
    assert abs(total - 1) < 1e-4, f"the attention adds up to {total}"
    time_both(
        benchmark,
        lambda: run(True),
        lambda: run(False),
        name="without recording",
        rounds=1 if is_smoke else 9,
        error=error,
        device="cpu",
    )
    benchmark.extra_info["bytes"] = locations.num_bytes
