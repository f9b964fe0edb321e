"""What `--change` may change, and what is said of the rest."""

from dataclasses import replace

import pytest

from trainer.change_history import SettingsChange, differences
from trainer.config import EncoderPretrainingConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.errors import UsageError
from trainer.options.change import apply_change, decides_order, refuse_impossible
from trainer.options.parser import dump, load, settings_of
from trainer.recipes import ALL_RECIPES, RECIPES, tiny

CORPUS = replace(
    tiny(),
    corpus=CorpusConfig({"a": SourceConfig("m"), "b": SourceConfig("n", weight=2.0)}),
    encoder_pretraining=EncoderPretrainingConfig(),
)


def change(config, *assignments):
    return apply_change(config, assignments, ALL_RECIPES)


def test_settings_sources_and_tasks_are_changed():
    changed = change(
        CORPUS, "optim.lr=3e-4", "num_steps=50", "corpus.sources.c={manifest: k}", "corpus.sources.a=null",
        "corpus.sources.b.weight=3", "optim.betas=[0.8, 0.9]",
    )  # fmt: skip
    assert (changed.optim.lr, changed.optim.betas, changed.num_steps) == (3e-4, (0.8, 0.9), 50)
    assert changed.corpus.sources == {"b": SourceConfig("n", weight=3.0), "c": SourceConfig("k")}
    tasks = change(tiny(), "data.tasks={read: 2}", "data.tasks.draw=1").data.tasks
    assert tasks == {"read": 2, "draw": 1}
    assert change(replace(tiny(), data=changed.data), "data.tasks.read=null").data.tasks.keys() == {
        *tiny().data.tasks
    } - {"read"}


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("optim.lr=fast", "--change optim.lr=fast: optim.lr is 'fast'; expected a float."),
        ("optim.rate=1", "--change optim.rate=1: optim has no option 'rate'."),
        ("num_steps", "--change has 'num_steps'; expected NAME=VALUE, such as optim.lr=3e-4."),
        ("num_steps=-1", "num_steps is -1; expected 0 or more."),
        ("corpus.sources.z.weight=3", "the run has no setting 'corpus.sources.z.weight' to change."),
        ("num_workers=3", "any command may give it: --num_workers VALUE."),
        ("out=elsewhere", "give the directory as it is, --out"),
        ("data.tasks.sing=1", r"data.tasks has \['sing'\]; expected some of"),
    ],
)
def test_what_is_no_change_gets_a_sentence(assignment, sentence):
    with pytest.raises(UsageError, match=sentence):
        change(CORPUS, assignment)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("seed=1", "seed: 0 -> 1: it decides the order .* A new run with it can start from these weights: --init"),
        ("freeze_encoder=true", "it decides which weights there are or which of them learn"),
        ("model.language_model.packing=causal", "it decides which weights"),
        ("recipe=toy", "it says what the run began with"),
        ("precision=bfloat16", "on top of frozen weights in that dtype"),
        ("data.num_concepts=16", "would become other tokens or another world"),
        ("corpus.sources.a.held_out=3", "it decides which samples the rows of source 'a' take"),
        (
            "corpus.sources.a={manifest: elsewhere, fingerprint: other}",
            "Add the data as it is to be under a name of its own",
        ),
        ("corpus.row_tokens=64", "it decides which samples a row takes"),
        ("num_steps=299", "num_steps=299: the run has made 300 steps; expected 300"),
        ("encoder_pretraining.optim.lr=1", "the encoder's pre-training is over"),
    ],
)
def test_what_cannot_change_says_what_would_be_needed(assignment, sentence):
    before = replace(CORPUS, num_steps=400, ema_decay=0.0)
    after = change(before, assignment).to_dict()
    with pytest.raises(UsageError, match=sentence):
        refuse_impossible(differences(before.to_dict(), after), before.to_dict(), after, phase="main", step=300)


def test_an_average_does_not_begin_on_the_way():
    before = replace(CORPUS, ema_decay=0.0)
    after = change(before, "ema_decay=0.9").to_dict()
    with pytest.raises(UsageError, match=r"the checkpoint has no average of its weights\. Expected 0, or a new run"):
        refuse_impossible(differences(before.to_dict(), after), before.to_dict(), after, phase="main", step=3)


def test_the_pre_training_changes_while_it_goes_on():
    after = change(tiny(), "encoder_pretraining.optim.lr=1", "encoder_pretraining.num_steps=9").to_dict()
    refuse_impossible(differences(tiny().to_dict(), after), tiny().to_dict(), after, phase="encoder", step=1)


def test_only_sources_weights_and_rows_decide_the_order():
    after = change(
        CORPUS, "corpus.num_rows=3", "corpus.sources.a.weight=3", "corpus.sources.b=null",
        "corpus.row_tokens=64", "optim.lr=1",
    )  # fmt: skip
    names = [one.name for one in differences(CORPUS.to_dict(), after.to_dict()) if decides_order(one)]
    assert names == ["corpus.num_rows", "corpus.sources.a.weight", "corpus.sources.b"]


@pytest.mark.parametrize("recipe", [*RECIPES, "vqa"])
def test_settings_are_themselves_after_a_round_trip(recipe):
    config = ALL_RECIPES[recipe]()
    assert settings_of(config.to_dict(), ALL_RECIPES) == config


def test_a_history_stands_in_the_settings_file(tmp_path):
    after = change(CORPUS, "optim.lr=1", "corpus.sources.c={manifest: k}")
    settings = differences(CORPUS.to_dict(), after.to_dict())
    config = replace(after, history=[SettingsChange("main", 3, settings, {"a": 5})])
    (tmp_path / "config.yaml").write_text(dump(config, ALL_RECIPES))
    assert load(tmp_path / "config.yaml", ALL_RECIPES) == config
    values = config.to_dict()
    assert settings_of(values, ALL_RECIPES) == config
    assert values == config.to_dict()  # as it was
