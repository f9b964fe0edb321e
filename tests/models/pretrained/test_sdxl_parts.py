"""A model with the U-Net of a Stable Diffusion XL on disk: inside it, everything computes what SDXL computes alone."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from models import MMInterleaved
from models.image_decoders.stable_diffusion_xl import StableDiffusionXL
from rows import batch_for
from tiny_snapshots import like, write_clip, write_language_model, write_sdxl, write_text_encoder

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    return {
        "vision_encoder": write_clip(folder / "clip"),
        "language_model": write_language_model(folder / "llama"),
        "image_decoder": write_sdxl(folder / "sdxl"),
    }


@pytest.fixture(scope="module")
def model(parts: Folders) -> MMInterleaved:
    """Shared; tests that change it make their own."""
    return MMInterleaved.from_parts(**parts, like=like())


@torch.no_grad()
def test_with_closed_gates_the_u_net_is_sdxls_own(model: MMInterleaved, parts: Folders) -> None:
    decoder = model.image_decoder
    assert type(decoder) is StableDiffusionXL
    original = UNet2DConditionModel.from_pretrained(parts["image_decoder"], subfolder="unet")
    condition = decoder.condition(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
    sample, timestep = torch.randn(2, 4, 8, 8), torch.tensor([7, 900])
    expected = original(
        sample, timestep, encoder_hidden_states=condition.tokens, added_cond_kwargs=dict(condition.added)
    ).sample
    values = decoder.unet.project_values(torch.randn(3, 340, 16))
    seen = {"values": values, "visible": torch.tensor([[0, 3], [1, 2]])}
    found = decoder.unet(sample, timestep, condition.tokens, condition.added, **seen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sizes_are_those_that_the_pipeline_of_sdxl_would_say(model: MMInterleaved, parts: Folders) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(parts["image_decoder"])
    for size in (64, (64, 96)):
        config = dataclasses.replace(model.config.image_decoder, image_size=size)
        decoder = StableDiffusionXL(config, context_dim=32, feature_dim=16, spatial_shapes=((4, 4),))
        height, width = config.drawn_image_size
        expected = pipeline._get_add_time_ids(
            (height, width), (0, 0), (height, width), dtype=torch.float32, text_encoder_projection_dim=20
        )
        condition = decoder.condition(torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool))
        assert condition.added["time_ids"].tolist() == expected.tolist()


@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "both encoders"])
@torch.no_grad()
def test_no_text_is_what_the_pipeline_of_sdxl_makes_of_it(parts: Folders, tmp_path: Path, zeros: bool) -> None:
    folder = write_sdxl(tmp_path / "sdxl", zeros_for_empty_prompt=zeros)
    options = {**parts, "image_decoder": folder, "like": like(), "negative_context": "empty_prompt"}
    decoder = MMInterleaved.from_parts(**options).image_decoder
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    _, tokens, _, pooled = pipeline.encode_prompt("a", do_classifier_free_guidance=True)  # and of no negative prompt
    assert tokens.any() == pooled.any() == (not zeros)
    torch.testing.assert_close(decoder.negative_context, tokens[0])
    torch.testing.assert_close(decoder.negative_pooled, pooled[0])


def test_text_encoders_that_do_not_fit_are_said(parts: Folders, tmp_path: Path) -> None:
    folder = write_sdxl(tmp_path / "sdxl", zeros_for_empty_prompt=False)
    options = {**parts, "image_decoder": folder, "like": like(), "negative_context": "empty_prompt"}

    def rewrite(suffix: str, **sizes: int) -> None:
        for part in ("tokenizer", "text_encoder"):
            shutil.rmtree(folder / f"{part}{suffix}")
        write_text_encoder(folder, suffix, num_layers=2, **sizes)

    rewrite("", width=14)
    with pytest.raises(ValueError, match="makes 3 tokens of 34 channels; the image decoder reads 3 of 32"):
        MMInterleaved.from_parts(**options)
    rewrite("", width=12, num_tokens=4)
    with pytest.raises(ValueError, match=r"text encoders of .* make 4 and 3 tokens"):
        MMInterleaved.from_parts(**options)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(FileNotFoundError, match=r"has no text_encoder_2/config\.json"):
        MMInterleaved.from_parts(**options)


@torch.no_grad()
def test_saved_and_read_again_it_draws_the_same(parts: Folders, tmp_path: Path) -> None:
    model = MMInterleaved.from_parts(**parts, like=like(gate=0.3), drawn_image_size=(64, 96))
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    model.save_pretrained(tmp_path / "saved")
    loaded = MMInterleaved.from_pretrained(tmp_path / "saved")
    assert loaded.config.to_dict() == model.config.to_dict()
    stored = load_file(tmp_path / "saved/model.safetensors")
    assert {"image_decoder.pooled_proj.weight", "image_decoder.negative_pooled"} <= stored.keys()
    prompt = ["A fox", torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))]
    first, again = (
        one.generate(prompt, mode="image", num_inference_steps=2, guidance_scale=3.0)[0] for one in (model, loaded)
    )
    assert first.size == (96, 64)
    assert max(abs(a - b) for a, b in zip(first.tobytes(), again.tobytes(), strict=True)) <= 1


def test_a_step_of_training_reaches_what_sdxl_adds(parts: Folders) -> None:
    model = MMInterleaved.from_parts(**parts, like=like(gate=0.3)).train()
    output = model(batch_for(model, [[["image", 9, "draw"]]]))
    assert output.loss_image.isfinite()
    assert output.num_drawn == 1
    output.loss_image.backward()
    decoder = model.image_decoder
    for parameter in (decoder.pooled_proj.weight, decoder.resampler.queries, decoder.unet.synchronizers[0].conv.weight):
        assert parameter.grad.abs().max() > 0


def test_in_float16_the_vae_stays_float32(parts: Folders, tmp_path: Path) -> None:
    """SDXL's VAE overflows float16. One that was made to fit it says so and is float16 like everything else."""
    model = MMInterleaved.from_parts(**parts, like=like(), dtype=torch.float16)
    model.save_pretrained(tmp_path / "saved")
    loaded = MMInterleaved.from_pretrained(tmp_path / "saved", dtype=torch.float16)
    for one in (model, loaded):
        dtypes = {name: parameter.dtype for name, parameter in one.named_parameters()}
        of_vae = {dtypes.pop(name) for name in list(dtypes) if name.startswith("image_decoder.codec.vae.")}
        assert of_vae == {torch.float32}
        assert set(dtypes.values()) == {torch.float16}
    latents = torch.randn(1, 4, 8, 8, dtype=torch.float16)
    assert loaded.image_decoder.decode(latents).isfinite().all()
    loaded.half()
    with pytest.raises(ValueError, match=r"VAE was converted to float16, which its activations overflow"):
        loaded.image_decoder.decode(latents)
    half = MMInterleaved.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert half.image_decoder.codec.vae.dtype == torch.bfloat16
