from dataclasses import replace

import pytest

from trainer.config import OptimConfig
from trainer.data.config import DataConfig
from trainer.errors import UsageError
from trainer.recipes import tiny


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        pytest.param({"ema_decay": 1.0}, r"ema_decay is 1.0; expected 0", id="ema"),
        pytest.param({"max_minutes": 0.0}, r"max_minutes is 0.0; expected a number above 0", id="minutes"),
        pytest.param(
            {"init_components": ["language_model"]}, r"init is null; expected a model in init", id="init-components"
        ),
        pytest.param({"num_steps": 0}, r"are both 0; expected something to train", id="nothing"),
    ],
)
def test_a_setting_out_of_range_gets_a_sentence(setting, sentence):
    without_encoder = replace(tiny().encoder_pretraining, num_steps=0)
    with pytest.raises(UsageError, match=sentence):
        replace(tiny(), encoder_pretraining=without_encoder, **setting)


def test_settings_of_a_part_are_checked_too():
    with pytest.raises(UsageError, match=r"optim.lr is -1; expected a number above 0"):
        OptimConfig(lr=-1)
    with pytest.raises(ValueError, match=r"data.num_concepts is 1"):
        DataConfig(num_concepts=1)
