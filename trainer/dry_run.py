"""What `--dry_run` tells of a few real steps on real data, of which nothing was kept."""

from __future__ import annotations

from collections.abc import Sequence

from mmfs.plurals import counted
from trainer.logging.metrics import Step


def report(
    steps: Sequence[Step],
    *,
    num_rows: int,
    row_tokens: int,
    num_read: int,
    num_broken: int,
    num_steps_left: int,
    peak_bytes: int,
) -> list[str]:
    """Lines about the data and the speed. The first step warms up, and where there are more, no rate counts it.

    Args:
        steps: those that were made.
        num_rows: rows of a batch.
        row_tokens: tokens of a row, padding included.
        num_read: samples and images that were read from files; 0 for the emoji world.
        num_broken: how many of them were broken.
        num_steps_left: steps of the real run.
        peak_bytes: the most memory that any process has used (`trainer.process.peak_memory`).
    """
    timed = steps[1:] or steps
    seconds = sum(step.step_s for step in timed)
    num_tokens, num_images = sum(step.num_tokens for step in steps), sum(step.num_images for step in steps)
    minutes = num_steps_left * seconds / len(timed) / 60
    duration = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    lines = [
        f"rows             {counted(len(steps), 'step')} of {num_rows}, "
        f"{num_images / (len(steps) * num_rows):.1f} images a row",
        f"padding          {1 - num_tokens / (len(steps) * num_rows * row_tokens):.1%} of the tokens",
        f"speed            {sum(step.num_tokens for step in timed) / seconds:.0f} tokens/s, "
        f"{sum(step.num_images for step in timed) / seconds:.1f} images/s",
        f"data             {sum(step.data_wait_s for step in timed) / seconds:.0%} of the time, made in between; a run "
        "with num_workers makes it ahead",
        f"peak memory      {peak_bytes / 1e9:.2f} GB",
        f"whole run        {counted(num_steps_left, 'step')}, {duration} at this speed",
    ]
    if num_read:
        share = num_broken / num_read
        lines.insert(2, f"broken           {num_broken} of {num_read} samples and images read ({share:.2%})")
    return lines
