from dataclasses import replace

import pytest

from trainer.config import PartsConfig
from trainer.cost.gpu_memory import Machine, Parameters
from trainer.cost.host_memory import host_bytes
from trainer.recipes import tiny
from trainer.system_config import ParallelConfig

COUNTED = Parameters(
    trainable={"U-Net": 600, "language model": 0}, frozen={"U-Net": 0, "language model": 1000}, frozen_bytes=2000
)
KNOWN = replace(COUNTED, largest_bytes=40)
MACHINE = Machine(4, 1e9)


def test_each_process_reads_its_rows_of_weights_in_files():
    found = host_bytes(replace(tiny(), init="somewhere", ema_decay=0.9), MACHINE, KNOWN)
    assert found == {"at the start": (40, 40), "copy for a checkpoint": (2400, 2400), "at the end": (40, 40)}


def test_the_first_process_makes_what_is_in_no_file():
    config = replace(tiny(), ema_decay=0.0, parallel=ParallelConfig(shard_size=2))
    found = host_bytes(config, MACHINE, KNOWN)
    assert found == {"at the start": (6440, 40), "copy for a checkpoint": (3600, 3600), "at the end": (40, 40)}


@pytest.mark.parametrize(("dtype", "language_model_bytes"), [("float32", 4000), ("bfloat16", 2000)])
def test_a_language_model_is_loaded_in_its_own_type(dtype, language_model_bytes):
    config = replace(tiny())
    object.__setattr__(config, "parts", PartsConfig("a", "b", "c", language_model_dtype=dtype))
    assert host_bytes(config, MACHINE, KNOWN)["at the start"] == (2400 + language_model_bytes + 40, 40)
