from dataclasses import replace

import pytest

from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.options.parser import dump, load, parse, refuse_non_finite
from trainer.recipes import RECIPES, tiny, toy


def parsed(*arguments: str) -> TrainConfig:
    return parse(arguments, RECIPES, "toy").config


def test_no_arguments_is_the_default_recipe():
    assert parsed() == toy()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_what_it_says_and_writes_where_it_says(name):
    config = parsed(name)
    assert (config.recipe, config.out) == (name, f"runs/{name}")


def test_dotted_overrides_reach_every_depth():
    config = parsed(
        *(
            "tiny",
            "--optim.lr",
            "1e-2",
            "--model.language_model.gate_init=0.5",
            "--model.visual_tokenizer.vision_encoder.hidden_size",
            "24",
        ),
        *("--model.image_decoder.mmfs", "null", "--data.tasks.read", "3", "--encoder_pretraining.optim.lr", "0.1"),
    )
    assert config.optim == replace(tiny().optim, lr=1e-2)
    assert config.model.language_model.gate_init == 0.5
    assert config.model.visual_tokenizer.vision_encoder == {
        **tiny().model.visual_tokenizer.vision_encoder,
        "hidden_size": 24,
    }
    assert config.model.image_decoder.mmfs is None
    assert config.data.tasks == {**tiny().data.tasks, "read": 3.0}
    assert config.encoder_pretraining.optim.lr == 0.1


def test_overrides_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("num_steps: 7\noptim: {lr: 0.5, eps: 0.25}\n")
    config = parsed("tiny", "--config", str(file), "--optim.lr", "0.125")
    assert (config.num_steps, config.optim.lr, config.optim.eps) == (7, 0.125, 0.25)
    assert config.optim.betas == tiny().optim.betas


def test_a_file_may_name_the_recipe(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("recipe: tiny\nseed: 5\n")
    assert parsed("--config", str(file)) == replace(tiny(), seed=5)
    with pytest.raises(UsageError, match=r"settings are of recipe 'tiny', but the command names 'toy'"):
        parsed("toy", "--config", str(file))


def test_print_config_is_read_back(tmp_path, capsys):
    options = ("tiny", "--model.language_model.mmfs", "null", "--optim.betas", "[0.5, 0.75]", "--max_minutes", "2")
    with pytest.raises(SystemExit) as exit_:
        parsed(*options, "--print_config")
    assert exit_.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parsed("--config", str(file)) == parsed(*options)


def test_help_tells_what_every_setting_means(capsys):
    with pytest.raises(SystemExit) as exit_:
        parsed("tiny", "--help")
    assert exit_.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--resume [auto|none|PATH] auto: go on with an unfinished run" in said
    assert "--parallel.shard_layers {true,false} Share the language model's layers one by one" in said
    assert "--parallel.watchdog_minutes WATCHDOG_MINUTES How long one process may keep" in said
    assert "--optim.lr LR Peak learning rate." in said
    assert "that the tests make; paper_13b: The paper's model" in said
    assert "torchrun --nproc-per-node N -m trainer.pretrain [RECIPE]" in said


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_run_writes_down_is_what_it_had(tmp_path, name):
    # toy has max_minutes; a null that replaces a recipe's value must come back as null
    recipe = RECIPES[name]()
    config = replace(recipe, max_minutes=None, seed=11, init=None if recipe.parts else "somewhere")
    file = tmp_path / "config.yaml"
    file.write_text(dump(config, RECIPES))
    assert load(file, RECIPES) == config


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["nothing"], r"no recipe 'nothing'. Recipes: toy, .*tiny", id="recipe"),
        pytest.param(
            ["tiny", "--optim.lrr", "3"], r"^optim has no option 'lrr'. All.*--print_config", id="unknown-option"
        ),
        pytest.param(["tiny", "--optim.lr", "fast"], r"^optim.lr is 'fast'; expected a float. All", id="wrong-type"),
        pytest.param(["tiny", "--num_steps", "2.5"], r"^num_steps is 2.5; expected an int. All", id="not-an-integer"),
        pytest.param(
            ["tiny", "--optim.schedule", "linear"],
            r"^optim.schedule is 'linear'; expected one of cosine, constant. All",
            id="not-a-choice",
        ),
        pytest.param(
            ["tiny", "--parallel.shard_layers", "maybe"],
            r"^parallel.shard_layers is 'maybe'; expected true or false. All",
            id="not-a-bool",
        ),
        pytest.param(["tiny", "--lora.rank", "many"], r"^lora.rank is 'many'; expected an int. All", id="nested"),
        pytest.param(["tiny", "--lora.rankk", "3"], r"^lora has no option 'rankk'. All", id="nested-unknown"),
        pytest.param(
            ["tiny", "--lora", "3"], r"^lora is 3; expected settings by name, or null. All", id="not-settings"
        ),
        pytest.param(
            ["tiny", "--max_minutes", "soon"], r"^max_minutes is 'soon'; expected a float, or null. All", id="nullable"
        ),
        pytest.param(
            ["tiny", "--init_components", "[eyes]"],
            r"^init_components holds 'eyes'; expected one of visual_tokenizer, language_model, image_decoder. All",
            id="in-a-list",
        ),
        pytest.param(
            ["tiny", "--data.tasks.read", "many"],
            r"^data.tasks.read is 'many'; expected a float. All",
            id="in-a-dictionary",
        ),
        pytest.param(["tiny", "--optim.betas", "3"], r"^optim.betas is 3; expected a list. All", id="not-a-list"),
        pytest.param(
            ["tiny", "--corpus.sources.a.weight", "x"],
            r"^corpus.sources.a.weight is 'x'; expected a float. All",
            id="in-a-source",
        ),
        pytest.param(["tiny", "--optim.lr", "-1"], r"optim.lr is -1.0; expected a number above 0", id="range"),
        pytest.param(["tiny", "--config", "missing.yaml"], r"does not exist.*missing.yaml", id="no-file"),
    ],
)
def test_a_wrong_command_gets_a_sentence(arguments, sentence):
    with pytest.raises(UsageError, match=sentence) as error:
        parsed(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optim: {lrr: 3}", r"^optim has no option 'lrr'. All"),
        ("optimm: {lr: 3}", r"^There is no option 'optimm'. All"),
        ("lora: {rank: many}", r"^lora.rank is 'many'; expected an int. All"),
        (
            "model: {visual_tokenizer: {vision_encoder: 3}}",
            r"^model.visual_tokenizer.vision_encoder is 3; expected settings by name. All",
        ),
        ("model: {language_model: {mmfs: {num_head: 3}}}", r"^model.language_model.mmfs has no option 'num_head'. All"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        parsed("tiny", "--config", str(file))


def test_resume_is_not_a_setting():
    assert parse(["tiny"], RECIPES, "toy").resume == "auto"
    assert parse(["tiny", "--resume", "none"], RECIPES, "toy").resume == "none"
    assert parse(["tiny", "--resume"], RECIPES, "toy").resume == "auto"
    assert parse(["tiny", "--resume", "runs/x", "--seed", "1"], RECIPES, "toy").resume == "runs/x"


@pytest.mark.parametrize("number", ["nan", ".nan", ".inf", "-.inf", "inf"])
@pytest.mark.parametrize(
    "name", ["optim.lr", "optim.weight_decay", "data.tasks.read", "model.language_model.gate_init", "max_minutes"]
)
def test_a_number_that_is_not_finite_is_refused(name: str, number: str) -> None:
    with pytest.raises(UsageError, match=name.rpartition(".")[2].replace("read", "tasks")):
        parsed("tiny", f"--{name}={number}")


def test_a_number_that_is_not_finite_is_found_at_any_depth() -> None:
    refuse_non_finite({"a": [1.0, {"b": (2.0, None, "nan")}]})
    with pytest.raises(UsageError, match=r"a\.1\.b\.0 is nan; expected a finite number"):
        refuse_non_finite({"a": [1.0, {"b": (float("nan"),)}]})
    with pytest.raises(UsageError, match=r"^lr is inf"):
        refuse_non_finite(replace(tiny().optim, lr=float("inf")))
