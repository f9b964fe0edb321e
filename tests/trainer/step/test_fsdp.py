"""Who holds what of a module that several processes train, and the real model with layers shared one by one."""

import json
import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import processes
from models import MMInterleaved
from sharding_facts import NUM_LAYERS, WIDTH, write_bytes_sent, write_layers_at_once, write_numbers_held
from trainer.logging.log_file import read_log
from trainer.pretrain import main
from two_branches import Branches

pytestmark = [
    pytest.mark.slow,  # importing everything for several processes; each launch is short
    # Of the compiler's own code.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

TINY = ("tiny", "--data.num_rows", "4", "--num_steps", "3", "--encoder_pretraining.num_steps", "2")


@pytest.mark.parametrize("shard_layers", [False, True])
def test_each_process_holds_its_share(tmp_path, shard_layers):
    assert processes.run(partial(write_numbers_held, str(tmp_path), shard_layers), 2) == [0, 0]
    held = [json.loads((tmp_path / f"held{rank}.json").read_text()) for rank in (0, 1)]
    module = Branches()
    num_trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    num_frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    for name, number in {"trainable": num_trainable, "average": num_trainable}.items():
        assert sum(process[name] for process in held) == number
        assert max(process[name] for process in held) < 0.7 * number  # rows cannot always be halved
    assert sum(process["frozen"] for process in held) == (num_frozen if shard_layers else 2 * num_frozen)
    for process in held:
        assert process["all, between steps again"] == process["trainable"] + process["frozen"]
        assert process["all, for samples"] == process["all in the end"] == num_trainable + num_frozen


def test_gradients_of_layers_are_let_go_of_one_by_one(tmp_path):
    """Beside the shards of all gradients there are a few layers, however many there are."""
    beside = {}
    for num_layers in (4, 12):
        assert processes.run(partial(write_layers_at_once, str(tmp_path), num_layers, True), 2) == [0, 0]
        at_once = [json.loads((tmp_path / f"at_once{rank}.json").read_text()) for rank in (0, 1)]
        beside[num_layers] = max(at_once) - num_layers / 2
    assert beside[12] == pytest.approx(beside[4], abs=0.5)
    assert beside[12] < 5


def test_layers_are_gathered_in_half_of_the_bytes(tmp_path):
    """Four layers, each for two micro-batches, forward and backward; their gradients are added up in float32."""
    facts = []
    for gather_dtype in (None, torch.bfloat16):
        assert processes.run(partial(write_bytes_sent, str(tmp_path), gather_dtype), 2) == [0, 0]
        facts.append(json.loads((tmp_path / "sent0.json").read_text()))
    plain, halved = facts
    in_layers, apart = 4 * NUM_LAYERS * WIDTH**2, 4 * 2 * WIDTH
    assert plain["gathered"] == 2 * 2 * in_layers + apart
    assert halved["gathered"] == 2 * 2 * in_layers / 2 + apart
    assert plain["scattered"] == halved["scattered"] == 2 * in_layers + apart
    assert set(halved["dtypes"]) == {"torch.float32"}
    assert halved["norms"] == pytest.approx(plain["norms"], rel=0.02)


def losses(out):
    return [(r["phase"], r["step"], r["loss"], r["grad_norm"]) for r in read_log(out) if "event" not in r]


@pytest.mark.parametrize(
    ("options", "sample_every", "rtol"),
    [
        pytest.param(("--memory.activation_checkpointing", "[language_model]"), 2, 1e-5, id="trained-and-recomputed"),
        pytest.param(("--compile", "[language_model]"), 2, 1e-5, id="compiled"),
        pytest.param(("--lora.rank", "2", "--precision", "bfloat16"), 0, 2e-2, id="adapters-in-bfloat16"),
    ],
)
def test_the_same_losses_with_layers_apart(tmp_path, options, sample_every, rtol):
    """Both phases: in the first, several processes share the images that the encoder is pre-trained on."""
    if "--lora.rank" in options:
        pytest.importorskip("peft")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    arguments = [*TINY, *options, "--num_workers", "0"]
    assert main([*arguments, "--compile", "[]", "--out", str(alone)]) == 0
    sharing = [*arguments, "--parallel.shard_layers", "true", "--memory.micro_batch_rows", "1"]
    sharing += ["--logging.sample_every", str(sample_every)]
    assert processes.run(partial(main, [*sharing, "--out", str(shared)]), 2) == [0, 0]
    assert len(losses(shared)) == len(losses(alone)) == 5
    for (*where, loss, norm), (*expected_where, expected_loss, expected_norm) in zip(
        losses(shared), losses(alone), strict=True
    ):
        assert where == expected_where
        assert math.isclose(loss, expected_loss, rel_tol=rtol), where
        assert math.isclose(norm, expected_norm, rel_tol=100 * rtol), where
    before, after = (load_file(run / "model" / "model.safetensors") for run in (alone, shared))
    assert before.keys() == after.keys()
    MMInterleaved.from_pretrained(shared / "model")
