"""A component is one file: everything that is asked of it is asked of what the file declares."""

import pytest
import torch
from torch import Tensor, nn

from export.components import all as listed
from export.components.check_inputs import Case, CheckInputs
from export.components.component import FLOAT, Component, Port
from export.components.profiles import Limits, one_image_usually
from export.components.spec import ComponentSpec
from export.engine.profiles import profiles_of
from export.graph.onnx_graph import to_onnx
from export.graph.precision import precision_of
from export.graph.quantization import weights_of
from export.store.samples import load_samples
from export.validate.parity import check_run
from models import MMInterleaved


class Brightness(nn.Module):
    """How bright an image is."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[N, 3, h, w] -> [N]."""
        return pixel_values.mean(dim=(1, 2, 3))


def _of(model: MMInterleaved) -> Component:
    height, width = model.config.image_size
    return Component(
        "brightness",
        Brightness(),
        inputs={"pixel_values": Port(FLOAT, ("images", 3, height, width))},
        outputs={"brightness": Port(FLOAT, ("images",))},
    )


def _cases(_component: Component, given: CheckInputs) -> list[Case]:
    return [Case("all images", {"pixel_values": given.batch.pixel_values})]


SPEC = ComponentSpec("brightness", _of, _cases, profiles=one_image_usually, takes_float16=False)


def test_a_component_that_is_listed_is_exported_and_checked_like_all_others(
    unchanged_model: MMInterleaved, model_dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "COMPONENTS", (*listed.COMPONENTS, SPEC))
    components = listed.components_of(unchanged_model)
    assert list(components)[-1] == "brightness"
    component = components["brightness"]
    assert precision_of("brightness", "float16") == "float32"
    assert weights_of("brightness", "int8") == "same"
    (profile,) = profiles_of("brightness", component.input_shapes(), Limits(max_images=3))
    assert profile.axes == {"images": (1, 1, 3)}
    cases = listed.check_cases(unchanged_model, components, load_samples(model_dir).documents)["brightness"]
    assert to_onnx(component).num_mmfs_nodes == {}
    (result,) = check_run(component, component.run, cases)
    assert result.worst == 0
    assert torch.is_tensor(cases[0].inputs["pixel_values"])


def test_names_and_ports_mean_one_thing(components: dict[str, Component]) -> None:
    names = [spec.name for spec in listed.COMPONENTS]
    assert len(names) == len(set(names))
    assert list(components) == names
    for spec in listed.COMPONENTS:
        ports = {**components[spec.name].inputs, **components[spec.name].outputs}
        # of SDXL there are more ports
        assert ports.keys() & listed.FLOAT32_PORTS == ports.keys() & spec.float32_ports, (
            "a port of this name is float32 in every component that has it"
        )
        assert components[spec.name].float32_in_pytorch <= spec.float32_ports


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"There is no component 'vae'\. Expected one of image_tokenizer, "):
        listed.spec_of("vae")
