"""The paper's runs: the figures of its tables, and which parameter learns how fast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models import MMInterleaved, MMInterleavedConfig
from models.frozen import freeze
from trainer.errors import UsageError
from trainer.recipes import FINETUNING, RECIPES
from trainer.recipes.paper import ablation_model, paper_optim
from trainer.resumed_settings import with_fingerprints
from trainer.step.optimizer import parameter_groups


def test_table_11():
    run = RECIPES["paper_13b"]()
    optim = run.optim
    assert (optim.lr, optim.lr * optim.unet_lr_factor) == (1e-4, pytest.approx(1e-5))
    assert (optim.betas, optim.eps, optim.weight_decay, optim.warmup_steps) == ((0.9, 0.995), 1e-6, 0.05, 1000)
    assert (run.num_steps, run.corpus.row_tokens, run.model.image_loss_weight) == (15_000, 2048, 10.0)
    assert (run.model.image_size, run.model.image_decoder.image_size) == ((224, 224), 512)
    assert (run.model.language_model.mmfs_every, run.model.language_model.mmfs_levels) == (4, (1, 4))
    assert run.frozen == ["vision_encoder", "language_model", "vae"]


def test_rows_of_the_large_run_divide_among_its_gpus():
    """It reads as many rows as the paper's."""
    run, paper = RECIPES["paper_13b_512"](), RECIPES["paper_13b"]()
    assert run.corpus.num_rows * run.num_steps == paper.corpus.num_rows * paper.num_steps
    for num_gpus in (64, 128, 256, 512):
        assert run.corpus.num_rows % num_gpus == 0
        assert num_gpus % run.parallel.shard_size == 0


# Task: size read, learning rates (base, U-Net, language model), warm-up, steps, betas, eps.
TABLES = {
    "vqa": (448, (1e-5, None, 1e-6), 500, 10_000, (0.9, 0.999), 1e-8),
    "rec": (224, (2e-5, None, 2e-5), 500, 10_000, (0.9, 0.999), 1e-8),
    "seg2img": (224, (1e-4, 1e-5, None), 100, 4000, (0.9, 0.98), 1e-5),
    "story": (224, (1e-5, 1e-4, None), 200, 4000, (0.9, 0.98), 1e-8),
}


@pytest.mark.parametrize("task", TABLES)
def test_tables_12_to_15(task):
    run, optim = FINETUNING[task](), FINETUNING[task]().optim
    size, rates, warmup, steps, betas, eps = TABLES[task]
    assert run.model.image_size == (size, size)
    given = (
        optim.lr,
        None if "image_decoder" in run.frozen else optim.lr * optim.unet_lr_factor,
        None if "language_model" in run.frozen else optim.lr * optim.language_model_lr_factor,
    )
    assert given == pytest.approx(rates)
    assert (optim.warmup_steps, run.num_steps, optim.betas, optim.eps) == (warmup, steps, betas, eps)
    assert optim.weight_decay == 0.05


def test_batches_of_tables_12_to_15():
    images_a_sample = {"vqa": 1, "rec": 1, "seg2img": 2, "story": 5}
    batches = {
        task: corpus.num_rows * corpus.sources[task].max_images_per_row // images
        for task, images in images_a_sample.items()
        if (corpus := FINETUNING[task]().corpus) is not None
    }
    assert batches == {"vqa": 256, "rec": 256, "seg2img": 512, "story": 128}


def test_groups_of_the_paper():
    model = MMInterleaved(MMInterleavedConfig.tiny())
    freeze(model)
    groups = {group["role"]: group for group in parameter_groups(model, paper_optim())}
    rates = {role: group["base_lr"] for role, group in groups.items()}
    assert rates == pytest.approx(
        {
            "decay": 1e-4,
            "no_decay": 1e-4,
            "sampling_offsets": 1e-5,
            "gate": 1e-4,
            "unet_decay": 1e-5,
            "unet_no_decay": 1e-5,
        }
    )
    assert {role for role, group in groups.items() if group["weight_decay"]} == {"decay", "unet_decay"}
    names = [name for group in groups.values() for name in group["names"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert all(n.startswith("image_decoder.unet.host.") for n in groups["unet_decay"]["names"])
    assert not any(n.startswith("image_decoder.unet.host.") for n in groups["decay"]["names"])


def test_a_trained_language_model_may_learn_slowly():
    model = MMInterleaved(MMInterleavedConfig.tiny())
    optim = replace(FINETUNING["vqa"]().optim, lr=1.0)
    groups = {group["role"]: group for group in parameter_groups(model, optim)}
    assert groups["language_model_decay"]["base_lr"] == pytest.approx(0.1)
    assert all(name.startswith("language_model.host.") for name in groups["language_model_no_decay"]["names"])
    assert groups["gate"]["base_lr"] == 1


@pytest.mark.parametrize("recipe", ["paper_13b", "sdxl_13b", "ablation_3b"])
def test_data_that_is_not_there_yet_is_asked_for(recipe):
    with pytest.raises(UsageError, match=r"corpus.sources.laion_\w+ has no data yet: give the directory"):
        with_fingerprints(RECIPES[recipe]())


def test_the_ablation_draws_at_256():
    assert ablation_model().image_decoder.image_size == 256
    assert ablation_model().visual_tokenizer.num_visual_tokens == 32
