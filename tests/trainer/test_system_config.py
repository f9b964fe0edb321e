import pytest

from trainer.errors import UsageError
from trainer.system_config import CheckpointConfig, LoggingConfig, MemoryConfig, ParallelConfig, ProfileConfig


@pytest.mark.parametrize(
    ("group", "setting", "sentence"),
    [
        (CheckpointConfig, {"keep_latest": 0}, r"checkpoint.keep_latest is 0; expected 1 or more"),
        (CheckpointConfig, {"every": 0}, r"checkpoint.every is 0; expected 1 or more"),
        (LoggingConfig, {"every": 0}, r"logging.every is 0; expected 1 or more"),
        (LoggingConfig, {"sample_every": -1}, r"logging.sample_every is -1; expected 0 or more"),
        (LoggingConfig, {"wandb": ""}, r"logging.wandb is empty; expected the name of a project"),
        (LoggingConfig, {"peak_tflops": 0.0}, r"logging.peak_tflops is 0.0; expected a number above 0"),
        (MemoryConfig, {"micro_batch_rows": -1}, r"memory.micro_batch_rows is -1; expected 0 or more"),
        (MemoryConfig, {"image_chunk": -1}, r"memory.image_chunk is -1; expected 0 or more"),
        (MemoryConfig, {"token_chunk": -1}, r"memory.token_chunk is -1; expected 0 or more"),
        (ParallelConfig, {"shard_size": -1}, r"parallel.shard_size is -1; expected 0 or more"),
        (ParallelConfig, {"watchdog_minutes": 0.0}, r"parallel.watchdog_minutes is 0.0; expected a number above 0"),
        (LoggingConfig, {"grad_norms_every": -1}, r"logging.grad_norms_every is -1; expected 0 or more"),
        (ProfileConfig, {"num_steps": -1}, r"profile.num_steps is -1; expected 0 or more"),
        (ProfileConfig, {"first_step": 0}, r"profile.first_step is 0; expected 1 or more"),
        (ParallelConfig, {"join_minutes": -1.0}, r"parallel.join_minutes is -1.0; expected a number above 0"),
        (
            ParallelConfig,
            {"shard_layers": True, "shard_size": 1},
            r"parallel.shard_layers is true, with parallel.shard_size 1.*expected another shard_size",
        ),
    ],
)
def test_a_setting_out_of_range_gets_a_sentence(group, setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        group(**setting)
