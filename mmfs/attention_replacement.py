"""mmfs' op in a model of transformers that is built or loaded, and out of it again.

Only modules of the model that is given change. No class and no function of transformers is touched, another model is as
it was, and parameters are the same tensors under the same names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from mmfs.functional import Backend, check_backend
from mmfs.layer import MSDeformAttn, MultiScaleDeformableAttention
from mmfs.plurals import counted
from mmfs.transformers_models.core_v2 import MultiScaleDeformableAttentionV2

STANDS_FOR: Final = "_mmfs_stands_for"
"""Attribute of a module that was put into a model: a tuple with what was there, which so is no child of the module."""

CORE_FUNCTION: Final = "ms_deformable_attn_core"
"""Attribute of an attention that keeps the sampling function (D-FINE, DEIMv2)."""


@dataclass(frozen=True)
class AttentionReplacement:
    """What `replace_attention` did. As text it names what was replaced, and gives the reason for each that was not."""

    replaced: tuple[str, ...]
    """Names in the model, as in `model.get_submodule`, that mmfs computes now."""

    kept: dict[str, str]
    """Names of what looks like deformable attention and is what it was, each with the reason."""

    def __str__(self) -> str:
        done = f"mmfs computes {counted(len(self.replaced), 'attention')}: {', '.join(self.replaced)}."
        return "\n".join([done, *(f"{name} is as it was: {reason}." for name, reason in self.kept.items())])


def replace_attention(model: nn.Module, *, backend: Backend | None = None) -> AttentionReplacement:
    """Let the multi-scale deformable attention of a transformers model be computed by `ms_deform_attn`.

        model = AutoModelForObjectDetection.from_pretrained(...)
        print(mmfs.replace_attention(model))

    For Deformable DETR, Grounding DINO, MM Grounding DINO, OmDet-Turbo, RT-DETR, RT-DETRv2, D-FINE, DEIMv2, LW-DETR,
    RF-DETR, PP-DocLayout, Mask2Former and OneFormer. Outputs and gradients are the same up to rounding. Do it before
    `torch.compile`, and before an export. `state_dict` has the same names, so weights are saved and loaded as ever;
    hooks stay; the model can be moved, cast, copied, pickled and trained. `restore_attention` puts back what was there.

    Args:
        model: changed in place. It has to hold the attentions; a single attention of RT-DETRv2, Mask2Former or
            OneFormer cannot be changed in place.
        backend: of `ms_deform_attn`: "reference", "cpu", "cuda", or None for what suits the device.

    Raises:
        ValueError: there is nothing to replace: no such attention, none that can be replaced (with the reasons), or all
            have been; or no such backend.
    """
    check_backend(backend)
    replaced: list[str] = []
    kept: dict[str, str] = {}
    present = 0
    made: dict[int, nn.Module] = {}  # by what was there, of a module that stands in two places
    for place in list(_places(model)):
        if isinstance(place.part, nn.Module) and _is_ours(place.part):
            present += 1
            continue
        ours = made.get(id(place.part)) or _substitute(place, backend)
        if isinstance(ours, str):
            kept[place.name] = ours
        elif ours is not None:
            if place.attribute != CORE_FUNCTION:  # a function is one for all attentions
                made[id(place.part)] = ours
            place.put(ours)
            replaced.append(place.name)
    kept |= _unknown(model, {*replaced, *kept})
    if not replaced:
        kind = type(model).__name__
        if kept:
            reasons = "; ".join(f"{name!r}: {reason}" for name, reason in kept.items())
            raise ValueError(f"No attention of this {kind} can be computed by mmfs: {reasons}.")
        if present:
            raise ValueError(
                f"mmfs computes the attentions of this {kind} already, {present} of them. Nothing was changed; "
                "mmfs.restore_attention(model) puts back what was there."
            )
        raise ValueError(
            f"This {kind} has no multi-scale deformable attention of transformers. Expected one of the models that "
            "help(mmfs.replace_attention) lists; in a model of your own use mmfs.MSDeformAttn or mmfs.ms_deform_attn."
        )
    return AttentionReplacement(tuple(replaced), kept)


def restore_attention(model: nn.Module) -> tuple[str, ...]:
    """Put back what `replace_attention` replaced, also in a copy of the model: the modules that were there, with the
    parameters of now.

    Returns:
        Their names in the model.

    Raises:
        ValueError: there is none.
    """
    restored = []
    for place in list(_places(model)):
        ours = place.part
        if not isinstance(ours, nn.Module) or STANDS_FOR not in ours.__dict__:
            continue
        (original,) = ours.__dict__[STANDS_FOR]
        if isinstance(original, nn.Module):  # what became of it since: training or not, for example
            original.__dict__.update({key: part for key, part in ours.__dict__.items() if key in original.__dict__})
        place.put(original)
        restored.append(place.name)
    if not restored:
        raise ValueError(
            f"This {type(model).__name__} holds nothing that mmfs.replace_attention put there. Expected a model that "
            "was given to it, or a copy of one."
        )
    return tuple(restored)


# ---------------------------------------------------------------------------------------------------------------------
# Places in a model


@dataclass(frozen=True)
class _Place:
    """Where a module or a sampling function stands."""

    name: str
    parent: nn.Module
    attribute: str
    part: Any

    def put(self, part: Any) -> None:
        if not (isinstance(part, nn.Module) and isinstance(self.part, nn.Module)):
            delattr(self.parent, self.attribute)  # PyTorch keeps modules and functions in different places
        setattr(self.parent, self.attribute, part)


def _places(model: nn.Module) -> Iterator[_Place]:
    """A module that stands in two places comes twice."""
    for prefix, parent in model.named_modules():
        parts: dict[str, Any] = {name: child for name, child in parent._modules.items() if child is not None}
        if CORE_FUNCTION in parent.__dict__:
            parts[CORE_FUNCTION] = parent.__dict__[CORE_FUNCTION]
        for attribute, part in parts.items():
            yield _Place(f"{prefix}.{attribute}" if prefix else attribute, parent, attribute, part)


def _unknown(model: nn.Module, known: set[str]) -> dict[str, str]:
    """What has the name of a deformable attention but is neither known nor around what is known, with the reason."""
    found = {}
    for name, module in model.named_modules():
        is_known = any(part == name or part.startswith(f"{name}." if name else "") for part in known)
        if is_known or not _looks_like_one(module) or any(_is_ours(part) for part in module.modules()):
            continue
        found[name or "the model itself"] = (
            f"it is a {_type_name(module)}, which mmfs does not know" if name else "give the model that holds it"
        )
    return found


def _looks_like_one(module: nn.Module) -> bool:
    return re.search(r"deform(able)?_?(attn|attention)", type(module).__name__, re.IGNORECASE) is not None


def _is_ours(module: nn.Module) -> bool:
    return STANDS_FOR in module.__dict__ or isinstance(module, (MultiScaleDeformableAttention, MSDeformAttn))


def _type_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


# ---------------------------------------------------------------------------------------------------------------------
# What takes the place of what


def _substitute(place: _Place, backend: Backend | None) -> nn.Module | str | None:
    """Ours for what stands there, or the reason why it stays; None if it is no attention of transformers."""
    if place.attribute == CORE_FUNCTION:
        return _core_for(place, backend)
    module = place.part
    if (ours := _class_for(module)) is None:
        return None
    reason = _why_not(module, ours)
    return reason if reason is not None else _standing_for(module, ours, backend)


def _class_for(module: nn.Module) -> type[nn.Module] | None:
    """By name, because asking for their class would import transformers' file of each model."""
    kind = _type_name(module)
    if not kind.startswith("transformers.models."):
        return None
    match kind.removeprefix("transformers.models."):
        case "rt_detr_v2.modeling_rt_detr_v2.RTDetrV2MultiscaleDeformableAttention":
            from mmfs.transformers_models.rt_detr_v2 import RTDetrV2Attention

            return RTDetrV2Attention
        case "mask2former.modeling_mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention":
            from mmfs.transformers_models.mask2former import Mask2FormerAttention

            return Mask2FormerAttention
        case "oneformer.modeling_oneformer.OneFormerPixelDecoderEncoderMultiscaleDeformableAttention":
            from mmfs.transformers_models.oneformer import OneFormerAttention

            return OneFormerAttention
    return MultiScaleDeformableAttention if type(module).__name__ == "MultiScaleDeformableAttention" else None


def _why_not(module: nn.Module, ours: type[nn.Module]) -> str | None:
    if (reason := _other_arguments(type(module).forward, ours.forward)) is not None:
        return reason
    if "forward" in module.__dict__ or module._compiled_call_impl is not None:
        return (
            "its forward was replaced or compiled on the object itself (as torch.compile and hooks of accelerate do), "
            "and would be lost; replace the attention first"
        )
    return _other_method(getattr(module, "method", "default"))


def _standing_for(module: nn.Module, ours: type[nn.Module], backend: Backend | None) -> nn.Module:
    """A module with the state of another: the same parameters, buffers, children and hooks, now and later."""
    made = ours.__new__(ours)
    made.__dict__.update(module.__dict__)
    made.__dict__[STANDS_FOR] = (module,)
    made.__dict__["backend"] = backend
    return made


def _core_for(place: _Place, backend: Backend | None) -> nn.Module | str | None:
    if not callable(place.part) or not getattr(place.part, "__module__", "").startswith("transformers.models."):
        return f"its {CORE_FUNCTION} is {place.part!r}, which mmfs does not know"
    reason = _other_arguments(place.part, MultiScaleDeformableAttentionV2.forward)
    reason = reason or _other_method(getattr(place.parent, "decoder_method", "default"))
    if reason is not None:
        return reason
    made = MultiScaleDeformableAttentionV2(backend).train(place.parent.training)
    made.__dict__[STANDS_FOR] = (place.part,)
    return made


def _other_arguments(theirs: Callable[..., Any], ours: Callable[..., Any]) -> str | None:
    given, expected = ([*inspect.signature(one).parameters] for one in (theirs, ours))
    given, expected = ([name for name in names if name != "self"] for names in (given, expected))
    if given == expected:
        return None
    return f"in this version of transformers it takes {given}, where mmfs expects {expected}"


def _other_method(method: str) -> str | None:
    return None if method == "default" else f"it samples by the method {method!r}, and mmfs bilinearly ('default')"
