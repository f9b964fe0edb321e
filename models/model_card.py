"""The model card of a saved model: README.md with the fields that the Hugging Face Hub reads at its top."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import ModelCardData

from models.config import MMInterleavedConfig

CARD_FILE = "README.md"

TEXT = """\
---
{fields}
---

# MM-Interleaved

A model that reads and writes documents of text and images in any order: a language model whose layers attend to the
multi-scale features of all images before a token, and a diffusion image decoder that attends to them too
([MM-Interleaved](https://arxiv.org/abs/2401.10208), section 3).

| component | what it is | parameters |
|---|---|---|
{components}

It reads images of {height} x {width} pixels (height x width) and draws images of {drawn_height} x {drawn_width}. An
image takes {num_visual_tokens} of the language model's {num_positions} places.

## Use

```python
from models import MMInterleaved  # a checkout of mmfs, with its `train` extra

model = MMInterleaved.from_pretrained("owner/name", dtype="auto")  # this repository, or its directory
print(model.generate(["A photo of"], max_new_tokens=16))
```

## To be filled in

What it was trained on, for what it is meant, what it scored, and under which licence it may be used: this file was
written from the configuration, which says nothing of these.
"""


def model_card(config: MMInterleavedConfig, num_parameters: Mapping[str, int]) -> str:
    """The text of the card.

    Args:
        config: of the model.
        num_parameters: of each component, by its name.
    """
    kinds = {
        "visual_tokenizer": f"{config.visual_tokenizer.vision_encoder.get('model_type', 'clip_vision_model')}, "
        "with ViT-Adapter and resampler",
        "language_model": str(config.language_model.transformer["model_type"]),
        "image_decoder": f"U-Net {'on pixels' if config.image_decoder.vae is None else 'on latents of a VAE'}",
    }
    rows = [f"| `{name}` | {kinds[name]} | {_in_millions(num_parameters[name])} |" for name in kinds]
    fields = ModelCardData(
        library_name="mmfs",
        pipeline_tag="any-to-any",
        tags=["mm-interleaved", "image-text-to-text", "text-to-image", "arxiv:2401.10208"],
    )
    (height, width), (drawn_height, drawn_width) = config.image_size, config.drawn_image_size
    return TEXT.format(
        fields=fields.to_yaml(),
        components="\n".join(rows),
        height=height,
        width=width,
        drawn_height=drawn_height,
        drawn_width=drawn_width,
        num_visual_tokens=config.visual_tokenizer.num_visual_tokens,
        num_positions=config.language_model.transformer.get("max_position_embeddings", "unbounded"),
    )


def _in_millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number < 1e9 else f"{number / 1e9:.2f} B"
