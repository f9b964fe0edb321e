import pytest

from trainer.config import TrainConfig
from trainer.options.errors import given_settings, problem_of, sentence_of
from trainer.recipes import ALL_RECIPES


@pytest.mark.parametrize("name", ALL_RECIPES)
def test_the_settings_of_every_recipe_fit(name):
    for setting, value in ALL_RECIPES[name]().to_dict().items():
        assert problem_of(setting, value, TrainConfig) is None


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("num_steps", True, "num_steps is True; expected an int."),
        ("seed", None, "seed is None; expected an int."),
        ("optim.lr", "1e-3", None),
        ("optim.lr", 1, None),
        ("optim.betas", [0.9, "x"], "optim.betas holds 'x'; expected a float."),
        ("optim", {"lr": 1, "schedule": "line"}, "optim.schedule is 'line'; expected one of cosine, constant."),
        ("lora", None, None),
        ("lora", {"rank": None}, "lora.rank is None; expected an int."),
        ("lora.rank.more", 1, None),
        ("wandb", "x", "There is no option 'wandb'."),
        ("logging.wandb", 3, None),
        ("logging.wandb", [3], "logging.wandb is [3]; expected a text, or null."),
        ("model.visual_tokenizer.vision_encoder.anything", {"free": "form"}, None),
        ("corpus", {"sources": {"a": {"wait": 1}}}, "corpus.sources.a has no option 'wait'."),
        ("data.tasks", {"read": "much"}, "data.tasks.read is 'much'; expected a float."),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name, value, problem):
    assert problem_of(name, value, TrainConfig) == problem


def test_files_come_before_options_and_what_is_no_setting_is_left_out(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\noptim: {lr: 0.5}\n")
    options = ["--num_steps=4", "--config", str(file), "--resume", "none", "--optim.lr", "x"]
    assert list(given_settings(options, TrainConfig)) == [
        ("seed", 3),
        ("optim", {"lr": 0.5}),
        ("num_steps", 4),
        ("optim.lr", "x"),
    ]
    (tmp_path / "b.yaml").write_text("{")
    assert list(given_settings([f"--config={tmp_path / 'b.yaml'}"], TrainConfig)) == []


def test_what_fits_leaves_the_parsers_message_in_one_line():
    assert sentence_of(ValueError("No such\n  thing."), ["--seed", "3"], TrainConfig) == "No such thing."
