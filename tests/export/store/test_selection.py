from dataclasses import asdict

import pytest

from export.store.manifest import Manifest
from export.store.selection import Absent, ComponentSelection, absent
from export_manifests import a_component, a_manifest

MODEL = ("eye", "llm", "unet", "vae")


def manifest(there: str, left: str = "") -> Manifest:
    """Of an export that holds these components."""
    selection = ComponentSelection(tuple(there.split()), tuple(left.split()))
    return a_manifest(
        dict.fromkeys(there.split(), a_component()), **asdict(absent(selection.components, selection, MODEL))
    )


def test_all_is_exported_but_what_is_left_to_pytorch() -> None:
    assert ComponentSelection().among(MODEL) == list(MODEL)
    assert ComponentSelection(torch_fallback=("vae",)).among(MODEL) == ["eye", "llm", "unet"]
    assert ComponentSelection(("vae", "eye")).among(MODEL) == ["eye", "vae"], "in the model's order"
    assert absent(["llm"], ComponentSelection(("llm",), ("vae",)), MODEL) == Absent(
        left_to_pytorch=("vae",), not_exported=("eye", "unet")
    )


@pytest.mark.parametrize(
    ("components", "torch_fallback", "message"),
    [
        (("lmm",), (), r"There is no component lmm\. The model has eye, llm, unet, vae\."),
        ((), ("vea",), r"There is no component vea\."),
        ((), MODEL, "names all components"),
        (("llm",), ("llm",), "llm: named in --components, which exports, and in --torch-fallback, which does not"),
    ],
)
def test_what_cannot_be_chosen(components: tuple[str, ...], torch_fallback: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComponentSelection(components, torch_fallback).among(MODEL)


def test_what_only_the_earlier_export_has_is_not_said_to_be_asked_for() -> None:
    earlier = a_manifest({"ear": a_component(), "llm": a_component()}, left_to_pytorch=("nose",))
    message = r"The export that is in --out already is of another model: it has ear, nose, and this model has eye, llm"
    with pytest.raises(ValueError, match=message):
        ComponentSelection(("llm", "unet")).joined(earlier).among(MODEL)
    with pytest.raises(ValueError, match=r"There is no component lmm\. The model has eye"):
        ComponentSelection(("lmm",)).joined(earlier).among(MODEL)


@pytest.mark.parametrize(
    ("earlier", "selection", "joined", "is_held"),
    [
        (
            manifest("eye llm unet vae"),
            ComponentSelection(("llm",)),
            ComponentSelection(("eye", "llm", "unet", "vae")),
            True,
        ),
        (manifest("eye llm unet vae"), ComponentSelection((), ("vae",)), ComponentSelection(), True),
        (manifest("llm"), ComponentSelection(("llm",)), ComponentSelection(("llm",)), True),
        (manifest("llm"), ComponentSelection(("unet",)), ComponentSelection(("llm", "unet")), False),
        (
            manifest("llm", "vae"),
            ComponentSelection(("unet",), ("eye",)),
            ComponentSelection(("llm", "unet"), ("eye", "vae")),
            False,
        ),
        (manifest("llm", "vae"), ComponentSelection(("vae",)), ComponentSelection(("llm", "vae")), False),
        (manifest("llm"), ComponentSelection(("llm",), ("vae",)), ComponentSelection(("llm",), ("vae",)), False),
        (manifest("llm"), ComponentSelection(), ComponentSelection(), False),
        (
            manifest("llm unet", "eye vae"),
            ComponentSelection((), ("eye", "vae")),
            ComponentSelection((), ("eye", "vae")),
            True,
        ),
    ],
)
def test_an_export_grows(
    earlier: Manifest, selection: ComponentSelection, joined: ComponentSelection, is_held: bool
) -> None:
    assert selection.joined(earlier) == joined
    assert joined.is_held_by(earlier) == is_held
