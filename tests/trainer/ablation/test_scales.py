from dataclasses import replace

import pytest
import torch

from models import MMInterleaved
from trainer.ablation.plan import STUDIES, Plan
from trainer.ablation.scales import CPU, GPU, gpu_model
from trainer.data.stream import Stream


def test_longer_rows_for_more_visual_tokens():
    lesson, base = CPU.lessons["questions"], CPU.recipe().data
    assert lesson.data(base, 4, None).row_tokens == lesson.data(base, 4, 4).row_tokens == lesson.row_tokens
    assert lesson.data(base, 4, 1).row_tokens == lesson.row_tokens
    assert lesson.data(base, 4, 64).row_tokens >= lesson.row_tokens + 4 * 60  # a document of four images fits


def test_the_gpu_scale_is_planned_for_two_runs_of_nine_minutes():
    planned_s = sum(run.nominal_s(GPU) for run in Plan(STUDIES["mmfs"], GPU, STUDIES["mmfs"].lessons, 1).runs)
    encoder_s = 0.2 * GPU.recipe().encoder_pretraining.num_steps  # of images alone: shorter steps than a lesson's
    assert planned_s + encoder_s < 2 * 9 * 60


@pytest.mark.slow
def test_the_gpu_scale_can_take_a_step():
    data = replace(GPU.lessons["label_map"].data(GPU.recipe().data, 4, None), num_rows=1)
    model = MMInterleaved(gpu_model())
    output = model(Stream(data, gpu_model(), seed=0)(0))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert min(output.num_targets, output.num_drawn) > 0
