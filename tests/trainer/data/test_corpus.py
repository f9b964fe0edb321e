"""Settings of real data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.config import TrainConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.errors import UsageError
from trainer.options.changed_settings import changed_settings
from trainer.options.parser import dump, load, parse
from trainer.recipes import RECIPES, tiny


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weight": 0.0}, "weight is 0.0"),
        ({"max_images_per_row": 0}, "max_images_per_row is 0"),
        ({"keep_one_image": 1.5}, "keep_one_image is 1.5; expected a share"),
        ({"max_images": 0}, "max_images is 0"),
        ({"few_shot_pairs": (1, 8)}, r"few_shot_pairs is \(1, 8\)"),
        ({"few_shot_pairs": (5, 4)}, "two ascending numbers from 2"),
    ],
)
def test_wrong_sources_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SourceConfig("m", **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sources": {}}, "sources is empty"),
        ({"num_rows": 0}, "0 rows of 2048 tokens"),
        ({"max_broken": 2.0}, "max_broken is 2.0"),
        ({"sources": {"a": SourceConfig("m", weight=1e-9), "b": SourceConfig("m")}}, "never be read"),
    ],
)
def test_wrong_corpora_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        CorpusConfig(**{"sources": {"a": SourceConfig("m")}, **settings})


def test_a_missing_manifest_and_tokenizer_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"holds no complete manifest .*python -m trainer.data.index PATH"):
        CorpusConfig({"a": SourceConfig(str(tmp_path))}).with_fingerprints()
    with pytest.raises(ValueError, match="tokenizer_file is '/no/file', which cannot be read"):
        CorpusConfig({"a": SourceConfig("m")}, tokenizer_file="/no/file").tokenizer()


def test_a_changed_manifest_is_an_error_unless_allowed(shards):
    path = shards.pairs("a.tar", ["a snail", "a key"])
    config = CorpusConfig({"a": SourceConfig(shards.manifest(path))})
    begun = config.with_fingerprints()
    assert begun.sources["a"].fingerprint is not None
    assert begun.with_fingerprints() == begun
    other = replace(config.sources["a"], fingerprint="0" * 32)
    with pytest.raises(ValueError, match=r"data of corpus.sources.a has changed .*fingerprint is .* not 000"):
        replace(config, sources={"a": other}).with_fingerprints()
    shards.pairs("a.tar", ["a snail"])
    with pytest.raises(ValueError, match=r"a.tar has .* bytes, not .*corpus.allow_changed true"):
        begun.with_fingerprints()
    assert replace(begun, allow_changed=True).with_fingerprints().sources == begun.sources


def with_corpus(**settings) -> TrainConfig:
    corpus = CorpusConfig({"a": SourceConfig("m", fingerprint="1", **settings)})
    none = replace(tiny().encoder_pretraining, num_steps=0)
    return replace(tiny(), corpus=corpus, encoder_pretraining=none)


def test_settings_of_a_run_are_read_back(tmp_path):
    config = with_corpus(few_shot=0.5, few_shot_pairs=(3, 4), max_images=6)
    (tmp_path / "config.yaml").write_text(dump(config, RECIPES))
    assert load(tmp_path / "config.yaml", RECIPES) == config


def test_a_file_gives_sources_and_options_change_the_rest(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("corpus: {sources: {a: {manifest: m, weight: 2}}}\nencoder_pretraining: {num_steps: 0}\n")
    options = ["tiny", "--config", str(file), "--corpus.num_rows", "3", "--corpus.allow_changed", "true"]
    corpus = parse(options, RECIPES, "toy").config.corpus
    assert corpus == CorpusConfig({"a": SourceConfig("m", weight=2.0)}, num_rows=3, allow_changed=True)
    file.write_text("corpus: {sources: {a: {manifest: m, wieght: 2}}}\n")
    with pytest.raises(UsageError, match="wieght"):
        parse(["tiny", "--config", str(file)], RECIPES, "toy")


def test_the_encoder_has_no_labels_to_learn_from():
    with pytest.raises(UsageError, match=r"encoder_pretraining.num_steps is 2; expected 0 with a corpus"):
        replace(tiny(), corpus=CorpusConfig({"a": SourceConfig("m")}))


def test_what_may_differ_on_resume():
    begun = with_corpus()

    def changed(now: TrainConfig) -> list[str]:
        return changed_settings(begun.to_dict(), now)

    def varied(**settings) -> TrainConfig:
        return replace(begun, corpus=replace(begun.corpus, **settings))

    other = {"a": SourceConfig("elsewhere", fingerprint="2")}
    assert changed(varied(max_broken=0.5, sources={"a": SourceConfig("elsewhere", fingerprint="1")})) == []
    assert changed(varied(sources=other)) == ["corpus.sources.a.fingerprint: 1 -> 2"]
    assert changed(varied(sources=other, allow_changed=True)) == []
    assert changed(varied(num_rows=3)) == ["corpus.num_rows: 16 -> 3"]
    assert changed(replace(begun, corpus=None)) != []
