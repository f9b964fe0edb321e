"""A model with SDXL's U-Net, exported: what that takes beside tokens are inputs of its graph."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from export.components.all import check_cases, components_of
from export.components.check_inputs import Case
from export.components.component import Component, Tolerances
from export.engine.memory_estimate import memory_of
from export.engine.profiles import Limits
from export.graph.onnx_graph import to_onnx
from export.graph.precision import lower_precision
from export.runtime import Session
from export.runtime.assets import NEGATIVE_CONTEXT_FILE, write_assets
from export.trt import main
from export.validate.end_to_end import compare
from export.validate.half_precision import check_half, check_seeing
from export.validate.parity import check
from export.validate.validate import run_of
from models import MMInterleaved, MMInterleavedConfig
from models.component_configs import ImageDecoderConfig
from models.uninitialized import uninitialized
from tiny_snapshots import U_NETS

MakeModel = Callable[[MMInterleavedConfig], MMInterleaved]
SIZES = [16.0, 32.0, 0.0, 0.0, 16.0, 32.0]
RED, GREEN, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue"))
DOCUMENTS = [["one", RED, "two", GREEN], ["three", BLUE]]
ADDED = ("text_embeds", "time_ids")


def with_sdxl(config: MMInterleavedConfig, **changes: object) -> MMInterleavedConfig:
    """SDXL's conditions, and images that are no squares."""
    unet = {**config.image_decoder.unet, **U_NETS["sdxl"], **changes}
    return dataclasses.replace(
        config, image_decoder=dataclasses.replace(config.image_decoder, unet=unet, image_size=(16, 32))
    )


@pytest.fixture
def sdxl(make_model: MakeModel, config: MMInterleavedConfig) -> MMInterleaved:
    return make_model(with_sdxl(config, transformer_layers_per_block=1))


@pytest.fixture
def sdxl_components(sdxl: MMInterleaved) -> dict[str, Component]:
    return components_of(sdxl)


@pytest.fixture
def sdxl_cases(sdxl: MMInterleaved, sdxl_components: dict[str, Component]) -> dict[str, list[Case]]:
    return check_cases(sdxl, sdxl_components, DOCUMENTS)


def test_the_resampler_gives_what_the_u_net_takes(sdxl_components: dict[str, Component]) -> None:
    resampler, unet = sdxl_components["context_resampler"], sdxl_components["unet_mmfs"]
    assert list(resampler.outputs) == ["encoder_hidden_states", *ADDED]
    assert list(unet.inputs)[2:6] == [*resampler.outputs, "visible"]
    for name, port in resampler.outputs.items():
        assert unet.inputs[name].shape == ("batch", *port.shape[1:])
    given = resampler.run(dict(zip(resampler.inputs, resampler.trace_inputs(), strict=True)))
    assert given["text_embeds"].shape == (4, 20)
    assert given["time_ids"].tolist() == [SIZES] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["context_resampler", "unet_mmfs"])
@torch.no_grad()
def test_graphs_compute_what_pytorch_computes(
    sdxl_components: dict[str, Component], sdxl_cases: dict[str, list[Case]], tmp_path: Path, name: str
) -> None:
    """In float32, and in bfloat16 with the sizes, whose sines and cosines are taken, in float32."""
    component, cases = sdxl_components[name], sdxl_cases[name]
    proto = to_onnx(component).proto
    (tmp_path / "onnx").mkdir()
    file = tmp_path / f"onnx/{name}.onnx"
    onnx.save(proto, file)
    assert all(result.worst <= Tolerances().relative_error for result in check(component, file, cases))
    if name == "unet_mmfs":
        unsized = component.run({**cases[0].inputs, "time_ids": cases[0].inputs["time_ids"] * 0})["model_output"]
        assert (unsized - component.run(cases[0].inputs)["model_output"]).abs().max() > 1e-3

    half = lower_precision(proto, "bfloat16")
    types = {value.name: value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)}
    assert types["time_ids"] == onnx.TensorProto.FLOAT
    assert types["text_embeds"] == types["encoder_hidden_states"] == onnx.TensorProto.BFLOAT16
    onnx.save(half, file)
    run = run_of(component, file, "bfloat16")
    check_half(component, run, cases, "bfloat16")
    if name == "unet_mmfs":
        check_seeing(component, run, cases[0])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize(
    "drawing",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0, "scheduler": "dpm"},
        {"guidance_scale": 2.0, "image_guidance_scale": 1.5, "scheduler": "ddpm"},
    ],
    ids=["plain", "guided", "guided-by-images"],
)
def test_a_session_draws_as_the_model_does(sdxl: MMInterleaved, drawing: dict) -> None:
    prompts = [["a text", RED], ["another"]]
    options = {"mode": "image", "num_inference_steps": 2, "seed": 5, **drawing}
    expected = sdxl.generate(prompts, **options)
    found = Session.of(sdxl, device="cpu").generate(prompts, **options)
    assert [compare(*pair) for pair in zip(expected, found, strict=True)] == [None, None]
    assert expected[0][0].size == (32, 16)
    with torch.no_grad():
        sdxl.image_decoder.pooled_proj.weight.mul_(3)
    assert expected[0][0].tobytes() != sdxl.generate(prompts, **options)[0][0].tobytes(), "the pooled embedding counts"


def test_both_negatives_are_written(sdxl: MMInterleaved, tmp_path: Path) -> None:
    write_assets(sdxl, tmp_path / "assets")
    negative = load_file(tmp_path / "assets" / NEGATIVE_CONTEXT_FILE)
    decoder = sdxl.image_decoder
    torch.testing.assert_close(negative["negative_context"], decoder.negative_context.detach())
    torch.testing.assert_close(negative["negative_pooled"], decoder.negative_pooled.detach())


@pytest.mark.slow
def test_memory_of_the_full_size(config: MMInterleavedConfig) -> None:
    """2.57 G parameters of the U-Net and 12 M of MMFS in float32, without any of them in memory."""
    full = dataclasses.replace(config, image_decoder=ImageDecoderConfig.sdxl_base())
    model = uninitialized(lambda: MMInterleaved(full)).eval()
    memory = memory_of(components_of(model)["unet_mmfs"], Limits())
    num_parameters = sum(parameter.numel() for parameter in model.image_decoder.unet.parameters())
    assert 2.57e9 < num_parameters < 2.6e9
    # The projections of the bank's features are another component's.
    assert 0.99 * 4 * num_parameters < memory.weights < 4 * num_parameters
    assert memory.activations > 2 * 320 * 128 * 128 * 4, "at least one map of the widest block, of both halves"


@pytest.mark.slow
def test_all_of_it_with_its_vae(make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, in float16: files, proofs, and what onnxruntime draws with them."""
    model = make_model(with_sdxl(MMInterleavedConfig.tiny()))
    model.save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--precision", "float16"]) == 0
    assert "2 images" in capsys.readouterr().out
    model = MMInterleaved.from_pretrained(tmp_path / "model")
    session = Session.open(tmp_path / "out", "ort")
    assert {name for name in session.runners["unet_mmfs"].inputs if name in ADDED} == set(ADDED)
    options = {"mode": "image", "num_inference_steps": 2, "guidance_scale": 3.0, "seed": 5}
    expected, found = (one.generate(["a text"], **options) for one in (model, session))
    assert compare(expected, found, least_psnr_db=30.0) is None
