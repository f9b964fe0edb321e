"""Runs that change on their way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from trainer.change_history import ChangedSetting, SettingsChange
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream, DataStart
from trainer.data.stream import Stream
from trainer.logging.log_file import read_log
from trainer.options.parser import load
from trainer.pretrain import main
from trainer.recipes import ALL_RECIPES, tiny
from trainer.starting_model import make_model
from trainer.step import training_state
from trainer.step.checkpoint import find_latest
from trainer.step.lr_schedule import learning_rate_factor
from trainer.step.optimizer import parameter_groups
from whole_runs import copy_of, snapshot, steps, tensors_in

CHANGE = ("optim.lr=5e-4", "optim.weight_decay=0.5", "num_steps=8", "data.tasks.story=null")
SETTINGS = [
    ChangedSetting("data.tasks.story", 1.0, None),
    ChangedSetting("num_steps", 6, 8),
    ChangedSetting("optim.lr", 1e-3, 5e-4),
    ChangedSetting("optim.weight_decay", 0.05, 0.5),
]


def changes_told(out):
    return [record["settings"] for record in read_log(out) if record.get("event") == "changed"]


def test_a_branch_goes_on_as_adamw_does_with_the_new_settings(finished, tmp_path, capsys):
    out, start = tmp_path / "branch", finished / "checkpoints" / "main-0000003"
    command = ["tiny", "--out", str(out), "--checkpoint.every", "1", "--checkpoint.keep_latest", "9"]
    changing = [*command, "--resume", str(start), "--change", *CHANGE]
    assert main([*changing, "--max_minutes", "1e-9"]) == 0
    told = capsys.readouterr().out
    assert "changed after step 3 of phase 'main' data.tasks.story: 1.0 -> null, num_steps: 6 -> 8, optim.lr:" in told
    assert "the learning rate of step 4 is 0.000467 (0.000854 without it)" in told
    assert [s["step"] for s in steps(out)] == [4]
    [change] = load(out / "config.yaml", ALL_RECIPES).history
    assert change == SettingsChange("main", 3, SETTINGS)

    config = tiny()
    tasks = {name: weight for name, weight in config.data.tasks.items() if name != "story"}
    optim = replace(config.optim, lr=5e-4, weight_decay=0.5)
    before, after = tensors_in(start), tensors_in(out / "checkpoints" / "main-0000004")
    torch.manual_seed(config.seed)
    model = make_model(config).train()
    model.load_state_dict({n.removeprefix("weights/"): t for n, t in before.items() if "weights/" in n}, strict=False)
    batch = Stream(replace(config.data, tasks=tasks), config.model, seed=config.seed).part(3, range(2))
    training_state._set_random_states_in(before["random/0 of 1"])  # of dropout
    model(batch).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
    rate = learning_rate_factor(3, 8, optim)
    for group in parameter_groups(model, optim):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if parameter.grad is None:
                continue
            mean, square = before[f"optimizer/{name}/exp_avg"], before[f"optimizer/{name}/exp_avg_sq"]
            mean = optim.betas[0] * mean + (1 - optim.betas[0]) * parameter.grad
            square = optim.betas[1] * square + (1 - optim.betas[1]) * parameter.grad**2
            number = int(before[f"optimizer/{name}/step"]) + 1
            assert number > 1
            unbiased = mean / (1 - optim.betas[0] ** number)
            scale = (square / (1 - optim.betas[1] ** number)).sqrt() + optim.eps
            lr = rate * group["base_lr"]
            expected = parameter.detach() * (1 - lr * group["weight_decay"]) - lr * unbiased / scale
            moved = (expected - before[f"weights/{name}"]).abs().max()
            error = (after[f"weights/{name}"] - expected).abs().max()
            assert error <= 1e-3 * moved + 1e-7, name

    shutil.rmtree(out / "checkpoints")  # killed before its first one, and started by the very same command
    assert main([*changing, "--max_minutes", "1e-9"]) == 0
    assert [s["step"] for s in steps(out)] == [4]
    shutil.rmtree(out / "checkpoints")  # and by the plain one
    assert main([*command, "--max_minutes", "1e-9"]) == 0
    assert main(command) == 0
    assert [s["step"] for s in steps(out)] == [4, 5, 6, 7, 8]
    assert steps(out)[-1]["lr"] == pytest.approx(5e-4 * learning_rate_factor(7, 8, optim))
    assert len(changes_told(out)) == 1
    assert find_latest(out / "checkpoints").config["history"][0]["step"] == 3


def test_a_finished_run_is_lengthened_where_it_is(finished, tmp_path, capsys):
    out = copy_of(finished, tmp_path)
    before = snapshot(out)
    assert main(["tiny", "--out", str(out), "--change", "optim.lr=5e-4"]) == 2
    assert "is finished after 6 steps, so a change needs more of them" in capsys.readouterr().err
    assert main(["tiny", "--out", str(out), "--change", "seed=1"]) == 2
    assert "--change cannot change seed: 0 -> 1: it decides the order" in capsys.readouterr().err
    older = str(out / "checkpoints" / "main-0000003")
    assert main(["tiny", "--out", str(out), "--resume", older, "--change", "num_steps=9"]) == 2
    assert "is not the newest checkpoint" in capsys.readouterr().err
    assert snapshot(out) == before
    lengthening = ["tiny", "--out", str(out), "--resume", str(out), "--change", "num_steps=8"]
    assert main(lengthening) == 0
    assert [s["step"] for s in steps(out) if s["phase"] == "main"] == [1, 2, 3, 4, 5, 6, 7, 8]
    for again in (lengthening, ["tiny", "--out", str(out)], ["--config", str(out / "config.yaml")]):
        assert main(again) == 0
        assert "is finished; its model is" in capsys.readouterr().out.splitlines()[-1]
    assert main(["tiny", "--out", str(out), "--optim.lr", "7e-4"]) == 2
    assert "change some on the way (--change NAME=VALUE)" in capsys.readouterr().err
    settings = load(out / "config.yaml", ALL_RECIPES)
    assert settings.num_steps == 8
    assert changes_told(out) == [[{"name": "num_steps", "before": 6, "after": 8}]]


def test_a_finished_run_that_was_compiled_elsewhere_is_refused_only_if_it_is_to_go_on(finished, tmp_path, capsys):
    """With a component that is not compiled on a CPU (`trainer.step.compilation.refuse_miscompiled`)."""
    out = copy_of(finished, tmp_path)
    (out / "config.yaml").write_text((out / "config.yaml").read_text().replace("compile: []", "compile: [unet]"))
    again = ["--config", str(out / "config.yaml"), "--device", "cpu"]
    assert main(again) == 0
    assert "is finished; its model is" in capsys.readouterr().out
    assert main([*again, "--change", "num_steps=8"]) == 2
    assert "--compile has unet, which PyTorch's compiler gets wrong on a CPU" in capsys.readouterr().err
    assert [s["step"] for s in steps(out) if s["phase"] == "main"] == [1, 2, 3, 4, 5, 6]


def test_only_a_run_that_goes_on_can_change(tmp_path, capsys):
    assert main(["tiny", "--out", str(tmp_path / "new"), "--change", "num_steps=9"]) == 2
    assert "--change is of a run that goes on, and" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.fixture
def sources(shards):
    """Three sources of pairs by name."""
    return {
        name: shards.manifest(shards.pairs(f"{name}.tar", [f"{name} {n}" for n in range(30)], seed=100 * number))
        for number, name in enumerate("abc")
    }


def corpus(**sources):
    return {"sources": sources, "num_rows": 2, "row_tokens": 96}


def test_sources_come_and_go_and_keep_their_positions(sources, tmp_path, capsys):
    file, out = tmp_path / "run.yaml", tmp_path / "run"
    begun = corpus(a={"manifest": sources["a"]}, b={"manifest": sources["b"]})
    file.write_text(json.dumps({"corpus": begun, "encoder_pretraining": {"num_steps": 0}, "num_steps": 3}))
    command = ["tiny", "--config", str(file), "--out", str(out), "--checkpoint.every", "1"]
    assert main(command) == 0
    added = json.dumps({"manifest": sources["c"]})
    change = (
        f"corpus.sources.d={added}",
        f"corpus.sources.c={added}",
        "corpus.sources.b=null",
        "corpus.sources.a.weight=3",
        "num_steps=5",
    )
    assert main([*command, "--change", *change]) == 0
    shutil.rmtree(out / "model")
    assert main(command) == 0
    config = load(out / "config.yaml", ALL_RECIPES)
    assert list(config.corpus.sources) == ["a", "c", "d"]
    assert list(find_latest(out / "checkpoints").config["corpus"]["sources"]) == ["a", "c", "d"]
    [change] = config.history
    assert change.rows_passed.keys() == {"a"}
    assert 0 < change.rows_passed["a"] < 6
    assert [s["step"] for s in steps(out)] == [1, 2, 3, 4, 5]
    assert steps(out)[-1].keys() >= {"loss_text/a", "loss_text/c", "loss_text/d"}
    assert main([*command, "--change", f"corpus.sources.c.manifest={sources['b']}", "num_steps=9"]) == 2
    assert "has changed since it was indexed" in capsys.readouterr().err


def first_samples(stream, steps):
    """By source, the first sample of each of its rows."""
    found = {}
    for step in steps:
        for row in range(stream.num_rows):
            first = stream.row(step, row).documents[0].key
            found.setdefault(first.partition("/")[0], []).append(first)
    return found


def test_each_source_goes_on_in_its_order(sources):
    def config(**weights):
        named = {name: SourceConfig(sources[name], weight=weight) for name, weight in weights.items()}
        return CorpusConfig(named, num_rows=4, row_tokens=96)

    before, after = config(a=1.0, b=3.0), config(a=2.0, c=1.0)
    whole = first_samples(CorpusStream(before, tiny().model, seed=0), range(50))
    passed = DataStart().rows_passed_at(before, 0, 6)
    assert sum(passed.values()) == 24
    start = DataStart(6, {"a": passed["a"]})
    changed = first_samples(CorpusStream(after, tiny().model, seed=0, start=start), range(6, 16))
    assert len(whole["a"]) > passed["a"] + len(changed["a"])
    assert changed["a"] == whole["a"][passed["a"] :][: len(changed["a"])]
    anew = first_samples(CorpusStream(config(c=1.0), tiny().model, seed=0), range(4))
    assert changed["c"] == anew["c"][: len(changed["c"])]
    again = start.rows_passed_at(after, 0, 16)
    assert again == {"a": passed["a"] + len(changed["a"]), "c": len(changed["c"])}
    assert DataStart.of([SettingsChange("main", 6, [], {"a": 1}), SettingsChange("main", 7, [])]) == DataStart(
        6, {"a": 1}
    )
