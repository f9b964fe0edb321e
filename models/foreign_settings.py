"""Settings of a transformers or diffusers network that come from somebody else: numbers and words, and nothing that
names a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.component_configs import MOST
from models.json_files import shortened

NAMES_OF_PROGRAMS = frozenset(
    (
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "custom_generate",
        "quantization_config",
        "trust_remote_code",
        "use_kernels",
    )
)
"""Settings by which transformers finds code on the hub (of a model, or a kernel), or another library to load with."""

COUNTS = frozenset(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "image_size", "patch_size", "num_channels"),
        *("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block"),
        *("transformer_layers_per_block", "attention_head_dim", "cross_attention_dim", "norm_num_groups"),
        *("latent_channels", "num_train_timesteps"),
    )
)
"""Settings that are 1 or more wherever they are given."""

LAYERS = frozenset(("num_hidden_layers", "layers_per_block", "transformer_layers_per_block"))
"""Those that say how many modules there are."""

MOST_TIMESTEPS = 100_000
"""Of a noise schedule, which is a loop over them; all that are known have 1000."""


def without_programs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that describe a network; what would load code is left out, since the classes are those of the
    installed libraries."""
    return {name: value for name, value in settings.items() if name not in NAMES_OF_PROGRAMS}


def check_counts(settings: Mapping[str, Any], where: str, *, most_layers: int) -> None:
    """Look at numbers that libraries do not look at before they use them.

    Args:
        settings: of one network.
        where: whose, for the message.
        most_layers: how many layers there may be; each has a tensor in the file of the weights.

    Raises:
        ValueError: a number of nothing, a text in its place, or more layers than there are weights.
    """
    for name in sorted(settings.keys() & COUNTS):
        most = most_layers if name in LAYERS else MOST_TIMESTEPS if name == "num_train_timesteps" else MOST
        for number in _flat(settings[name]):
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
                limit = f"{most}, as many as the weights have tensors" if name in LAYERS else str(most)
                raise ValueError(
                    f"{where} has {name} {shortened(settings[name])}; expected whole numbers from 1 to {limit}."
                )


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list | tuple) else [value]
