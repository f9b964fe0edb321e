import dataclasses

import pytest

from models import MMInterleavedConfig


@pytest.mark.parametrize(
    ("part", "name", "expected"),
    [
        ("visual_tokenizer", "resampler_input", "'normed' or 'projected'"),
        ("language_model", "packing", "'document' or 'causal'"),
        ("image_decoder", "mmfs_placement", "'up' or 'skips'"),
        ("image_decoder", "context_images", "'all' or 'previous'"),
    ],
)
def test_a_word_that_is_no_choice_is_refused(part: str, name: str, expected: str) -> None:
    values = MMInterleavedConfig.tiny().to_dict()
    values[part][name] = "other"
    with pytest.raises(ValueError, match=f"Config has {name} 'other'; expected {expected}"):
        MMInterleavedConfig.from_dict(values)
    with pytest.raises(ValueError, match=f"Config has {name} 'other'; expected {expected}"):
        dataclasses.replace(getattr(MMInterleavedConfig.tiny(), part), **{name: "other"})
