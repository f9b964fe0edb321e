"""A model cut short, to try an export in minutes before it takes hours."""

from __future__ import annotations

from models import MMInterleaved


def truncate_layers(model: MMInterleaved, num_layers: int) -> None:
    """Leave the first layers of the language model and forget the others, in place.

    Raises:
        ValueError: there are not so many.
    """
    language_model = model.language_model
    layers = language_model.decoder.layers
    if not 1 <= num_layers <= len(layers):
        raise ValueError(
            f"--few-layers is {num_layers}. Expected 1 to {len(layers)}, as many layers as the language model has."
        )
    config = model.config.language_model
    with_synchronizer = range(len(layers))[config.mmfs_first :: config.mmfs_every] if config.mmfs is not None else ()
    num_synchronizers = sum(layer < num_layers for layer in with_synchronizer)
    language_model.decoder.layers = layers[:num_layers]
    language_model.synchronizers = language_model.synchronizers[:num_synchronizers]
    language_model.host.config.num_hidden_layers = num_layers
