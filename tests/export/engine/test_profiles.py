import pytest

from export.components.component import Component
from export.components.profiles import Limits
from export.engine.profiles import profiles_of
from export.graph.kv_cache import with_kv_cache_layout

LIMITS = Limits(max_batch=2, max_tokens=128, max_past=300, max_images=6)


def test_the_language_model_has_a_profile_for_single_tokens_and_one_for_prompts(
    components: dict[str, Component],
) -> None:
    inputs = components["llm"].input_shapes()
    decode, prefill = profiles_of("llm", inputs, LIMITS)
    assert (decode.name, prefill.name) == ("decode", "prefill")
    assert decode.axes == {"batch": (1, 1, 2), "images": (1, 2, 6), "past": (1, 150, 300), "tokens": (1, 1, 1)}
    assert prefill.axes == {**decode.axes, "tokens": (1, 64, 128)}
    shapes = prefill.shapes(inputs)
    assert list(shapes) == list(components["llm"].inputs)
    width = components["llm"].inputs["inputs_embeds"].shape[2]
    assert shapes["inputs_embeds"] == ((1, 1, width), (1, 64, width), (2, 128, width))
    assert shapes["last_token_ids"] == ((1, 1), (1, 1), (2, 1))


def test_a_cache_of_fixed_size_is_no_axis_and_single_tokens_come_in_pairs(components: dict[str, Component]) -> None:
    inputs = with_kv_cache_layout(components["llm"], "trt_native", 40).input_shapes()
    decode, prefill = profiles_of("llm", inputs, LIMITS)
    assert decode.axes == {"batch": (1, 1, 2), "images": (1, 2, 6), "tokens": (1, 1, 2)}
    assert {shape[2] for shape in prefill.shapes(inputs)["past_key_0"]} == {40}


def test_the_unet_is_static_unless_asked(components: dict[str, Component]) -> None:
    inputs = components["unet_mmfs"].input_shapes()
    (static,) = profiles_of("unet_mmfs", inputs, LIMITS)
    assert static.axes == {"batch": (4, 4, 4), "images": (6, 6, 6)}
    (dynamic,) = profiles_of("unet_mmfs", inputs, Limits(max_batch=2, max_images=6, dynamic_unet=True))
    assert dynamic.axes == {"batch": (1, 4, 4), "images": (1, 2, 6)}


def test_every_input_of_every_component_has_its_shapes_in_order(components: dict[str, Component]) -> None:
    for limits in (LIMITS, Limits(1, 1, 1, 1)):
        for name, component in components.items():
            for profile in profiles_of(name, component.input_shapes(), limits):
                for port_name, (least, usual, largest) in profile.shapes(component.input_shapes()).items():
                    assert len(least) == len(component.inputs[port_name].shape)
                    assert all(1 <= a <= b <= c for a, b, c in zip(least, usual, largest, strict=True)), (name, limits)


def test_an_axis_without_limits_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"vae_decoder: There are no limits for the axes \['width'\]"):
        profiles_of("vae_decoder", {"x": ("batch", 3, "width")}, LIMITS)


def test_a_component_that_is_not_declared_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"There is no component 'vae'\. Expected one of image_tokenizer, "):
        profiles_of("vae", {"x": ("batch", 3)}, LIMITS)


@pytest.mark.parametrize("name", ["max_batch", "max_tokens", "max_past", "max_images"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is 0\. Expected at least 1"):
        Limits(**{name: 0})
