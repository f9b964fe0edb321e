"""Mutated model directories, manifests of exports, and checkpoints: nothing of them is run, none hangs, and each is
read or refused with a sentence that names its place.

`python -m tests.robustness.fuzz_model_files --minutes 30 --seed 0` looks for longer; a finding is printed with the
command that makes the same case again (`--case N --minutes 0`).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from export.store.manifest import MANIFEST_FILE, read_manifest, write_manifest
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from trainer.config import OptimConfig
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.process.distributed import Processes, joined
from trainer.step import checkpoint
from trainer.step.checkpoint import Saver
from trainer.step.optimizer import make_optimizer
from trainer.step.training_state import TrainingState, fingerprint, frozen_names, learned_names

SECONDS = 20
"""A case that computes longer hangs."""

WAIT_SECONDS = 600
"""And one that does not end for so long, for the machine may be busy."""

PROGRAMS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "ctypes.dlopen"}
"""Events of Python that no file may cause."""

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        2**31,
        2**63,
        -(2**63),
        10**30,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "x",
        "\x1b[31m",
        "é" * 40,
        "../../etc/passwd",
        "/etc/passwd",
        "os.system",
        "null",
        "a\x00b",
        "llama",
        "float32",
    ),
    *([], [1], [[]], {}, {"class_path": "os.system"}, {"auto_map": {"AutoModelForCausalLM": "a/b--c.D"}}, [None] * 3),
)


class Hang(BaseException):
    """A case took longer than SECONDS."""


def mutated_json(content: Any, dice: random.Random) -> Any:
    """The same with one value changed, removed, added or swapped with another, anywhere inside."""
    places: list[tuple[Any, Any]] = []
    left = [content]
    while left:
        one = left.pop()
        pairs = list(one.items()) if isinstance(one, dict) else list(enumerate(one)) if isinstance(one, list) else []
        places += [(one, key) for key, _ in pairs]
        left += [value for _, value in pairs[:50]]  # not the whole of a vocabulary
    if not places or dice.random() < 0.02:
        return dice.choice(VALUES)
    holder, key = dice.choice(places)
    match dice.randrange(5):
        case 0:
            del holder[key]
        case 1:
            other, name = dice.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
        case 2 if isinstance(holder, dict):
            holder[dice.choice(["x", "auto_map", "trust_remote_code", "attn_implementation", "__class__"])] = (
                dice.choice(VALUES)
            )
        case _:
            holder[key] = dice.choice(VALUES)
    return content


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    """The same with a few bytes changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at = dice.randrange(min(len(data), dice.choice([64, 2000, 10**9]))) if data else 0
        match dice.randrange(5):
            case 0 if data:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                del data[at : at + dice.choice([1, 4, 100])]
            case 2:
                data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice([1, 4, 8])))
            case 3:
                del data[at:]
            case _:
                data[at : at + 8] = dice.choice([b"\xff" * 8, bytes(8), (2**40).to_bytes(8, "little")])
    return bytes(data)


def json_in(file: Path) -> Any:
    """What a JSON file holds; None if it is none, or none any more."""
    try:
        return json.loads(file.read_text()) if file.suffix == ".json" else None
    except (ValueError, RecursionError):
        return None


def change_file(file: Path, dice: random.Random) -> None:
    """Damage a file in one way."""
    content = json_in(file)
    if content is not None and dice.random() < 0.8:
        content = mutated_json(content, dice)
        file.write_text(json.dumps(content) if dice.random() < 0.97 else "[" * 50_000)
    elif dice.random() < 0.03:
        file.unlink()
    else:
        file.write_bytes(mutated_bytes(file.read_bytes(), dice))


class Target:
    """Files and what reads them."""

    def __init__(self, folder: Path, read: Callable[[Path], None], names: tuple[str, ...]) -> None:
        self.folder, self.read, self.names = folder, read, names


def model_target(scratch: Path) -> Target:
    """A model directory without its digests, for with them nothing that is changed is read."""
    torch.manual_seed(0)
    config = MMInterleavedConfig.tiny()
    processor = MMInterleavedProcessor(Tokenizer.from_str(load_tokenizer().to_str()), image_size=config.image_size)
    folder = scratch / "model"
    MMInterleaved(config, processor).save_pretrained(folder)
    (folder / "SHA256SUMS").unlink()

    def read(directory: Path) -> None:
        MMInterleaved.from_pretrained(directory)

    return Target(folder, read, ("config.json", "config.json", "processor.json", "tokenizer.json", "model.safetensors"))


def manifest_target(scratch: Path) -> Target:
    """The manifest of an export."""
    from export_manifests import a_component, a_manifest, an_engine  # which a command has to look for first

    folder = scratch / "export"
    folder.mkdir()
    write_manifest(folder, a_manifest({"llm": a_component(engines={"rtx-1.7": an_engine()}), "vae": a_component()}))
    return Target(folder, lambda directory: void(read_manifest(directory)), (MANIFEST_FILE,))


def checkpoint_target(scratch: Path, processes: Processes) -> Target:
    """A checkpoint, read as a run does that goes on from it; sizes and digests are made to fit what was changed."""

    def state(module: nn.Module) -> TrainingState:
        optimizer = make_optimizer(module, OptimConfig(lr=0.1))
        return TrainingState(module, learned_names(module), optimizer, None, processes, seed=7)

    module = nn.Linear(2, 3)
    with Saver(scratch / "checkpoints", processes, keep_latest=1) as saver:
        saver.save(
            state(module),
            phase="main",
            phase_index=1,
            step=3,
            config={"seed": 1},
            base=fingerprint(module, frozen_names(module)),
        )
    assert saver.latest is not None

    def read(directory: Path) -> None:
        if (found := checkpoint.read(directory)) is None:
            found = checkpoint.Checkpoint(directory, "main", 3, 1, {}, {}, {}, 0)
        found.damaged_files(processes)
        found.load(state(nn.Linear(2, 3)), {}, processes)

    return Target(saver.latest, read, ("checkpoint.json", "state/.metadata", "state/.metadata", "state/__0_0.distcp"))


def void(_value: object) -> None:
    """Nothing."""


@contextmanager
def watched() -> Iterator[Callable[[], list[str]]]:
    """Inside, tells which events of PROGRAMS there were, and ends what hangs."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    clocks = (signal.SIGALRM, signal.ITIMER_REAL, WAIT_SECONDS), (signal.SIGPROF, signal.ITIMER_PROF, SECONDS)
    before = [signal.signal(number, hangs) for number, _, _ in clocks]
    _events.clear()
    for _, clock, seconds in clocks:
        signal.setitimer(clock, seconds)
    try:
        yield lambda: list(_events)
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


_events: list[str] = []
_is_hooked = False


def _hook() -> None:
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(lambda event, _arguments: _events.append(event) if event in PROGRAMS else None)
        _is_hooked = True


def run_case(target: Target, dice: random.Random) -> tuple[str, str | None]:
    """What came of one case ("read" or "refused"), and what is wrong with that; None: nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(target.folder, Path(scratch) / "case"))
        for _ in range(dice.choice([1, 1, 1, 2])):
            name = dice.choice(target.names)
            if (folder / name).is_file():
                change_file(folder / name, dice)
        said = StringIO()
        try:
            with watched() as events, redirect_stdout(said), redirect_stderr(said):
                target.read(folder)
            outcome, wrong = "read", None
        except (ValueError, FileNotFoundError) as error:
            outcome, wrong = "refused", None
            if type(error).__module__ not in ("builtins", "trainer.errors"):
                wrong = f"{type(error).__name__} of a library"
            elif not any(place in str(error) for place in (str(folder), *(name for name in target.names))):
                wrong = "no word of the file: " + str(error)[:300]
        except Hang:
            outcome, wrong = "refused", "hangs"
        except BaseException:
            outcome, wrong = "refused", traceback.format_exc()[-1500:]
        if "[y/N]" in said.getvalue():
            wrong = "asks whether to run a program"
        return outcome, wrong or (f"runs {found}" if (found := events()) else None)


def fuzz(seed: int, *, seconds: float, first: int = 0, most: int | None = None) -> tuple[Counter[str], list[str]]:
    """Run cases for so long; outcomes, and findings in words."""
    _hook()
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as name, joined(torch.device("cpu")) as processes:
        scratch = Path(name)
        targets = {
            "model": model_target(scratch),
            "manifest": manifest_target(scratch),
            "checkpoint": checkpoint_target(scratch, processes),
        }
        end, case = time.monotonic() + seconds, first
        while (most is None and time.monotonic() < end) or (most is not None and case < first + most):
            dice = random.Random(f"{seed} {case}")
            which = dice.choice(list(targets))
            outcome, wrong = run_case(targets[which], dice)
            outcomes[f"{which} {outcome}"] += 1
            if wrong is not None:
                findings.append(f"--seed {seed} --case {case} ({which}): {wrong}")
                print(findings[-1], flush=True)
            case += 1
    return outcomes, findings


@pytest.mark.slow
def test_mutated_files_are_read_or_refused() -> None:
    outcomes, findings = fuzz(seed=int(time.time()) // 86400, seconds=20)  # another seed each day
    assert not findings, "\n".join(findings)
    assert len(outcomes) >= 4


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone")
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1]))
    only = given.case is not None
    outcomes, findings = fuzz(
        given.seed, seconds=60 * given.minutes, first=given.case if only else 0, most=1 if only else None
    )
    print(f"{sum(outcomes.values())} cases: {dict(sorted(outcomes.items()))}; {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
