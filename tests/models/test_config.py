import dataclasses
from pathlib import Path

import pytest

from models import MMInterleavedConfig

CONFIGS = {
    "tiny": MMInterleavedConfig.tiny(),
    "toy": MMInterleavedConfig.toy(),
    "released_13b": MMInterleavedConfig.released_13b(),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_survives_its_file(config: MMInterleavedConfig, tmp_path: Path) -> None:
    config.save(tmp_path / "config.json")
    loaded = MMInterleavedConfig.load(tmp_path / "config.json")
    assert loaded.to_dict() == config.to_dict()
    assert loaded.language_model.mmfs == config.language_model.mmfs
    assert loaded.language_model.mmfs_levels == config.language_model.mmfs_levels


def test_an_unknown_key_is_named() -> None:
    values = MMInterleavedConfig.tiny().to_dict()
    values["visual_tokenizer"]["num_visual_token"] = 3
    with pytest.raises(
        ValueError,
        match=r"config.visual_tokenizer has unknown keys \['num_visual_token'\]; VisualTokenizerConfig knows",
    ):
        MMInterleavedConfig.from_dict(values)


def test_a_missing_key_is_named() -> None:
    values = MMInterleavedConfig.tiny().to_dict()
    del values["language_model"]["transformer"], values["visual_tokenizer"]
    with pytest.raises(
        ValueError, match=r"config lacks \['visual_tokenizer'\], which a MMInterleavedConfig has no default for"
    ):
        MMInterleavedConfig.from_dict(values)
    values["visual_tokenizer"] = {"vision_encoder": {}}
    with pytest.raises(ValueError, match=r"config.language_model lacks \['transformer'\]"):
        MMInterleavedConfig.from_dict(values)
    with pytest.raises(ValueError, match=r"language_model is 'large'; expected the settings of a LanguageModelConfig"):
        MMInterleavedConfig.from_dict({**values, "language_model": "large"})


def test_without_mmfs_changes_nothing_else() -> None:
    config = MMInterleavedConfig.toy()
    bare = config.without_mmfs()
    assert bare.language_model.mmfs is None
    assert bare.image_decoder.mmfs is None
    back = dataclasses.replace(
        bare,
        language_model=dataclasses.replace(bare.language_model, mmfs=config.language_model.mmfs),
        image_decoder=dataclasses.replace(bare.image_decoder, mmfs=config.image_decoder.mmfs),
    )
    assert back == config
    assert MMInterleavedConfig.from_dict(bare.to_dict()).language_model.mmfs is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    MMInterleavedConfig.tiny().save(file)
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match=r"config\.json is damaged \(.*\)\. Fetch or make it again"):
        MMInterleavedConfig.load(file)


@pytest.mark.parametrize("value", [1e39, -3.5e38, float("inf"), float("nan"), 10**400, "0.5", True])
def test_a_fraction_that_float32_does_not_hold_is_named(value: object) -> None:
    described = MMInterleavedConfig.tiny().to_dict()
    described["language_model"]["gate_init"] = value
    with pytest.raises(ValueError, match=r"gate_init .*; expected a number within float32"):
        MMInterleavedConfig.from_dict(described)
