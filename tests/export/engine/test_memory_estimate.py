import pytest
import torch
from torch import nn

import export.pipeline
from export.components.component import Component, Port
from export.components.profiles import Limits
from export.engine.memory_estimate import Memory, Meter, gpu_bytes, memory_of, report
from export.graph.quantization import matrices_of
from export.trt import main

LIMITS = Limits(max_batch=3, max_tokens=4, max_past=10, max_images=5)
FLOAT = torch.float32


class Twice(nn.Module):
    """Uses one of its two layers, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 800)

    def forward(self, x: torch.Tensor, past: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        wide = torch.cat([x] * 10, dim=-1)  # [3, 80]
        return self.used(self.used(wide[:, :8])) + past.sum() + value.sum()


def test_every_kind_is_counted_once() -> None:
    component = Component(
        "context_resampler",
        Twice(),
        inputs={
            "x": Port(FLOAT, ("batch", 8)),
            "past_key_0": Port(FLOAT, ("batch", "past", 8), "cache"),
            "mmfs_value_0": Port(torch.float16, ("images", 7), "bank"),
        },
        outputs={"y": Port(FLOAT, ("batch", 8))},
    )
    memory = memory_of(component, LIMITS)
    assert memory.weights == (8 * 8 + 8) * 4, "a layer that is not used does not count"
    assert memory.cache == 3 * 10 * 8 * 4
    assert memory.bank == 5 * 7 * 2
    assert memory.ports == 2 * 3 * 8 * 4
    # At the most there are `wide`, what the layers made, the sum of the past, and both added, which is like the output.
    assert memory.activations == (80 + 8 + 8) * 3 * 4 + 4 - memory.ports // 2
    assert memory.building == 4 * memory.weights


def test_the_meter_sees_memory_go() -> None:
    with Meter() as meter:
        first = torch.zeros(100)
        second = first + 1
        assert (meter.live, meter.peak) == (800, 800)
        view = second[10:]
        del first, second
        assert meter.live == 400, "a view keeps its memory"
        del view
        assert (meter.live, meter.peak) == (0, 800)


def test_all_components_of_a_model_are_counted(components: dict[str, Component]) -> None:
    for name, component in components.items():
        memory = memory_of(component, LIMITS)
        assert (memory.cache > 0) == (name == "llm")
        assert (memory.bank > 0) == (name in ("llm", "unet_mmfs"))
        assert (memory.weights > 0) == (name != "vae_decoder"), "the pixel codec has none"
        assert memory.ports > 0


def test_the_sum_keeps_what_stays_and_takes_turns_for_the_rest() -> None:
    memories = {"a": Memory(10, 20, 30, 1, 2), "b": Memory(100, 0, 0, 0, 7)}
    assert gpu_bytes(memories) == 160 + 7
    head, *rows, limits, total = report(memories, LIMITS)
    assert head.split()[-6:] == ["weights", "cache", "bank", "ports", "activations", "building"]
    assert [row.split()[0] for row in rows] == ["a", "b"]
    assert "batch 3, 4 new tokens, 10 cached, 5 images" in limits
    assert total.startswith("on the GPU with all engines loaded: 0.0 MB")


@pytest.fixture
def as_if_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every component takes the same, in bytes; running them all takes ten seconds."""
    monkeypatch.setattr(export.pipeline, "memory_of", lambda *_: Memory(10**6, 2 * 10**6, 3 * 10**6, 10**5, 2 * 10**5))


@pytest.mark.usefixtures("as_if_measured")
def test_half_precision_halves_what_is_stored(model_dir, tmp_path, capsys) -> None:
    totals = []
    for precision in ("float32", "float16"):
        assert main([str(model_dir), "--out", str(tmp_path), "--dry-run", "--precision", precision]) == 0
        totals.append([row.split()[1:] for row in capsys.readouterr().out.splitlines() if row.startswith("llm")])
    assert totals == [[["1.0", "2.0", "3.0", "0.1", "0.2", "4.0"]], [["0.5", "1.0", "1.5", "0.1", "0.2", "2.0"]]]


def test_weights_of_eight_bits_have_a_scale_per_output() -> None:
    memory = Memory(1000, 20, 30, 1, 2)
    assert memory.in_eight_bits([torch.zeros(4, 10), torch.zeros(2, 5)], itemsize=2) == Memory(
        1000 - (50 - 2 * (4 + 2)), 20, 30, 1, 2
    )


@pytest.mark.usefixtures("as_if_measured")
def test_only_the_language_model_takes_less_with_eight_bits(model_dir, unchanged_model, tmp_path, capsys) -> None:
    found = []
    for weights in ("same", "int8"):
        assert main([str(model_dir), "--out", str(tmp_path), "--dry-run", "--llm-weights", weights]) == 0
        found.append([row.split()[:2] for row in capsys.readouterr().out.splitlines()[1:8]])
    saved = sum(3 * matrix.numel() - 4 * len(matrix) for matrix in matrices_of(unchanged_model))
    assert 50_000 < saved < 150_000
    assert [row for row in found[1] if row not in found[0]] == [["llm", f"{1 - saved / 1e6:.1f}"]]


def test_a_trial_with_few_layers_is_planned_as_one(model_dir, tmp_path, capsys, monkeypatch) -> None:
    def a_megabyte_a_layer(component: Component, _limits: Limits) -> Memory:
        return Memory(10**6 * component.num_cached_attentions, 0, 0, 0, 0)

    monkeypatch.setattr(export.pipeline, "memory_of", a_megabyte_a_layer)
    for options, weights in (([], "2.0"), (["--few-layers", "1"], "1.0")):
        assert main([str(model_dir), "--out", str(tmp_path), "--dry-run", *options]) == 0
        rows = [row.split() for row in capsys.readouterr().out.splitlines()]
        assert [row[1] for row in rows if row[0] == "llm"] == [weights]


@pytest.mark.usefixtures("as_if_measured")
def test_a_gpu_that_is_too_small_is_an_exit_status(model_dir, tmp_path, capsys) -> None:
    command = [str(model_dir), "--out", str(tmp_path / "out"), "--dry-run", "--gpu-mem"]
    assert main([*command, "80"]) == 0
    assert main([*command, "0.001"]) == 2
    assert "and the GPU has 0.001. Lower --max-batch" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_measures_every_component_and_writes_nothing(model_dir, components, tmp_path, capsys) -> None:
    assert main([str(model_dir), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    found = {row[0]: float(row[1]) for row in rows if row and row[0] in components}
    assert found.keys() == components.keys()
    assert found["llm"] > 0.1, "megabytes of weights"
    assert list(tmp_path.iterdir()) == []
