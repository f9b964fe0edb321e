import json

import pytest

from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.options.parser import parse
from trainer.options.renamed import RENAMED_SETTINGS, refuse_renamed_options, refuse_renamed_settings
from trainer.pretrain import main
from trainer.recipes import RECIPES, tiny
from trainer.run_files import CHECKPOINTS, SETTINGS


def parsed(*arguments: str) -> TrainConfig:
    return parse(arguments, RECIPES, "toy").config


@pytest.mark.parametrize("old", RENAMED_SETTINGS)
def test_an_old_option_is_refused_with_its_new_name_which_exists(old):
    new = RENAMED_SETTINGS[old]
    for given in ([f"--{old}", "1"], [f"--{old}=1"]):
        with pytest.raises(UsageError, match=rf"^--{old} is now called --{new}\.$"):
            parsed("tiny", *given)
    settings = tiny().to_dict()
    for name in new.split("."):
        settings = settings[name]  # KeyError: there is no such setting


def test_old_names_of_pretrained_components_are_refused():
    with pytest.raises(UsageError, match=r"^--parts.vision is now called --parts.vision_encoder\.$"):
        parsed("tiny", "--parts.vision", "clip")


def test_several_old_options_are_all_named():
    with pytest.raises(UsageError, match=r"^--a is now called --b\. --c is now called --d\.$"):
        refuse_renamed_options(["--a", "1", "--c=2", "--b", "3", "--a=4"], {"--a": "--b", "--c": "--d"})
    refuse_renamed_options(["--b", "--a_longer_name", "x--a"], {"--a": "--b"})


def test_a_file_with_old_settings_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("recipe: tiny\nkeep: 2\nshard_layers: true\n")
    sentence = (
        r"config.yaml was written by an older version.*keep is now called checkpoint.keep_latest, shard_layers is"
    )
    for option in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(UsageError, match=sentence):
            parsed("tiny", *option)
    with pytest.raises(UsageError, match=sentence):
        parsed("--config", str(file))


def test_settings_with_new_names_pass():
    refuse_renamed_settings(tiny().to_dict(), "here")


def test_a_run_directory_with_old_settings_is_refused_and_left_as_it_is(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["tiny", "--out", str(out), "--max_minutes", "1e-9"]) == 0
    settings = tiny().to_dict() | {"out": str(out)}
    [place] = (out / CHECKPOINTS).glob("*/checkpoint.json")
    content = json.loads(place.read_text())
    del content["sha256"], content["own_sha256"]  # an older version had none
    place.write_text(json.dumps(content | {"config": settings | {"keep": 2}}))
    before = (out / SETTINGS).read_text()
    capsys.readouterr()
    assert main(["tiny", "--out", str(out)]) == 2
    assert "was written by an older version, whose settings had other names: keep is now" in capsys.readouterr().err
    assert (out / SETTINGS).read_text() == before
