"""All components, in the order in which a document passes through them: the model cut where a runtime has to decide
something.

    image_tokenizer     pixel_values -> visual_tokens, ms_features
    mmfs_values_llm     ms_features -> mmfs_value_{j}          once per image, read by every token afterwards
    mmfs_values_unet    ms_features -> unet_mmfs_value_{j}     once per image, read by every denoising step
    llm                 inputs_embeds, ... -> logits, hidden_states, new_key_{i}, new_value_{i}
    context_resampler   context_hidden, context_length -> encoder_hidden_states; of SDXL text_embeds, time_ids too
    unet_mmfs           sample, timestep, encoder_hidden_states, ... -> model_output
    vae_decoder         latents -> image

The cuts and most names are those of a split deployment in which values are projected once per image. Images are one
bank for the whole call, and `visible` = (first, one past last) is the range of the bank that a token sees in `llm`, or
a drawn image in `unet_mmfs`. A sequence sees a contiguous range of images, so two integers replace a list of slots and
image positions; both halves of classifier-free guidance see the same images. A bank without images is
allowed, so no switch turns MMFS off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from export.components import context_resampler, image_tokenizer, llm, mmfs_values, unet_mmfs, vae_decoder
from export.components.check_inputs import Case, CheckInputs, Document
from export.components.component import Component
from export.components.sampled import stays_float32, with_sampling
from export.components.spec import ComponentSpec

if TYPE_CHECKING:
    from models.mm_interleaved import MMInterleaved

COMPONENTS: tuple[ComponentSpec, ...] = (
    image_tokenizer.SPEC,
    mmfs_values.LLM_SPEC,
    mmfs_values.UNET_SPEC,
    llm.SPEC,
    context_resampler.SPEC,
    unet_mmfs.SPEC,
    vae_decoder.SPEC,
)
"""A new component is listed here, after those whose outputs it is checked with."""

FLOAT32_PORTS = frozenset().union(*(spec.float32_ports for spec in COMPONENTS))
"""Inputs and outputs, of any component, with which the runtime itself computes in float32."""


def is_float32_port(name: str) -> bool:
    """Whether an input or output is float32 in every precision."""
    return name in FLOAT32_PORTS or stays_float32(name)


def components_of(model: MMInterleaved, *, sampling_locations: bool = False) -> dict[str, Component]:
    """Every component that this model has, in the order in which a document passes through them.

    Args:
        model: cut into components.
        sampling_locations: let those with MMFS say what it asks of the op, so that a runtime can tell where it samples.
    """
    components = {spec.name: component for spec in COMPONENTS if (component := spec.of(model)) is not None}
    if not sampling_locations:
        return components
    return {name: with_sampling(component) for name, component in components.items()}


def spec_of(name: str) -> ComponentSpec:
    """The declaration of a component.

    Raises:
        ValueError: there is none of this name.
    """
    for spec in COMPONENTS:
        if spec.name == name:
            return spec
    raise ValueError(f"There is no component {name!r}. Expected one of {', '.join(spec.name for spec in COMPONENTS)}.")


def check_cases(
    model: MMInterleaved, components: dict[str, Component], documents: Sequence[Document]
) -> dict[str, list[Case]]:
    """The inputs that every component is checked with, at lengths other than those it was traced with.

    Args:
        model: with a processor.
        components: from `components_of(model)`.
        documents: at least one image among them.
    """
    given = CheckInputs(model, documents, {name: (one, spec_of(name).cases) for name, one in components.items()})
    return {name: given.cases_of(name) for name in components}
