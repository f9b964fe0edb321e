"""The report of `--estimate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trainer import pretrain
from trainer.cost.estimate import described, estimate, figures
from trainer.cost.gpu_memory import GB, Machine, memory_bytes
from trainer.recipes import FINETUNING, RECIPES
from trainer.system_config import ParallelConfig


@pytest.mark.slow
def test_the_command_tells_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["--parallel.shard_layers", "true", "--logging.sample_every", "1"]
    assert pretrain.main(["tiny", *settings, "--out", str(out), "--estimate", "2x0.001"]) == 0
    report = capsys.readouterr().out
    assert not out.exists()
    assert "tiny: a step has 2 rows, 1 at a time on each of 2 GPUs" in report
    assert "too little is left. Try --memory.activation_checkpointing" in report
    assert "2 H100 at 70% of 67 TFLOP/s (float32)" in report
    assert "For samples it has all whole again, beside shards: 0.0 GB" in report


@pytest.mark.slow
def test_the_papers_run_is_estimated_without_its_weights() -> None:
    """Against the arithmetic on layer sizes: 13.4 B frozen, 1.4 B trained with MMFS after up-sampling blocks."""
    config, machine = RECIPES["paper_13b"](), Machine(8, 80 * GB)
    known = figures(config, machine)
    parameters = known.parameters
    assert parameters.num_trainable / 1e9 == pytest.approx(1.40, abs=0.01)
    assert sum(parameters.frozen.values()) / 1e9 == pytest.approx(13.40, abs=0.01)
    assert parameters.frozen_bytes / GB == pytest.approx(26.8, abs=0.1)
    assert known.memory["AdamW"] == 8 * parameters.num_trainable / 8

    transformer = config.model.language_model.transformer
    width, num_layers = transformer["hidden_size"], transformer["num_hidden_layers"]
    num_tokens, row_tokens = known.shape.num_rows * known.shape.row_tokens, known.shape.row_tokens
    in_layers = parameters.frozen["language model"] - 2 * transformer["vocab_size"] * width
    expected = 2 * num_tokens * (in_layers + 2 * row_tokens * width * num_layers)  # products, attention
    assert expected < known.plain.forward_flops["language_model"] < 1.05 * expected  # with MMFS

    report = described(config, machine, known)
    assert "too little" not in report
    assert "TFLOP/s (bfloat16)" in report
    assert "days for 15,000 steps" in report


@pytest.mark.slow
def test_sdxl_as_the_image_decoder_fits_too() -> None:
    config, machine = RECIPES["sdxl_13b"](), Machine(8, 80 * GB)
    known = figures(config, machine)
    assert known.parameters.trainable["U-Net"] == 2_567_463_684
    assert known.parameters.frozen["VAE"] == 83_653_863
    assert "too little" not in described(config, machine, known)


@pytest.mark.slow
def test_fine_tuning_fits_gpus_of_80_gb() -> None:
    """With a language model that is frozen."""
    report = estimate(FINETUNING["story"](), Machine(8, 80 * GB))
    assert "% of 80 GB" in report
    assert "too little" not in report


@pytest.mark.slow
def test_a_whole_language_model_fits_them_layer_by_layer() -> None:
    """Of vqa, which reads the largest images: 13.5 B parameters learn, of which 12.7 B are in layers."""
    config, machine = FINETUNING["vqa"](), Machine(8, 80 * GB)
    known = figures(config, machine)
    report = described(config, machine, known)
    assert "% of 80 GB" in report
    assert "too little" not in report
    assert "For samples" not in report
    in_layers = sum(layer.trained for layer in known.parameters.layers)
    assert in_layers / 4e9 == pytest.approx(12.7, abs=0.1)
    assert known.memory["gathered for a step"] == 4 * known.parameters.num_trainable - in_layers
    at_once = replace(config, parallel=ParallelConfig(shard_layers=False))
    costs = (known.parameters, known.plain, known.recomputed)
    memory = memory_bytes(at_once, machine, *costs, is_alone=known.shape.num_rows * 8 == known.num_rows)
    assert "too little is left" in described(at_once, machine, replace(known, memory=memory))
