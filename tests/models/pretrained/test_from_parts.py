"""A model from snapshots on disk: inside it, each part computes what it computes alone.

Letters: T tokens, V vocabulary of the language model.
"""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CLIPVisionModel

from alignment import LINE, OFFSETS, move_parameters
from models import MMInterleaved
from numerics import assert_equal_up_to_rounding
from rows import batch_for
from tiny_snapshots import (
    LANGUAGE_MODELS,
    U_NETS,
    VOCABULARY,
    like,
    write_clip,
    write_diffusion,
    write_language_model,
    write_text_encoder,
    write_tokenizer,
)

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    return {
        "vision_encoder": write_clip(folder / "clip"),
        "language_model": write_language_model(folder / "llama"),
        "image_decoder": write_diffusion(folder / "sd1"),
    }


@pytest.fixture(scope="module")
def model(parts: Folders) -> MMInterleaved:
    """Shared; tests that change it make their own."""
    return MMInterleaved.from_parts(**parts, like=like())


def assert_parts_are_untouched(model: MMInterleaved, parts: Folders) -> None:
    for network, folder in (
        (model.language_model.host, parts["language_model"]),
        (model.image_decoder.unet.host, parts["image_decoder"] / "unet"),
        (model.image_decoder.codec.vae, parts["image_decoder"] / "vae"),
    ):
        state = network.state_dict()
        for file in folder.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                torch.testing.assert_close(state[name], tensor.to(state[name].dtype), rtol=0, atol=0)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_with_closed_gates_the_logits_are_the_language_models_own(parts: Folders, tmp_path: Path, kind: str) -> None:
    """Twelve tokens are three times the sliding window of those that have one."""
    folder = write_language_model(tmp_path / kind, kind)
    model = MMInterleaved.from_parts(**{**parts, "language_model": folder}, like=like())
    original = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(2, 258, (2, 12))
    expected = original(ids).logits  # [2, T, V]

    _, features = model.visual_tokenizer(torch.rand(3, 3, 32, 32))
    lm = model.language_model
    hidden = lm(
        lm.embed(ids),
        position_ids=torch.arange(12).expand(2, -1),
        mask=torch.ones(12, 12, dtype=torch.bool).tril().expand(2, 1, -1, -1),
        values=lm.project_values(features),
        visible=torch.tensor([0, 3]).expand(2, 12, 2),
    )
    kept = [i for i in range(VOCABULARY) if not 258 <= i < 261]  # the new tokens take the two ids that were free
    torch.testing.assert_close(lm.logits(hidden)[..., kept], expected[..., kept], rtol=1e-5, atol=1e-5)

    for synchronizer in lm.synchronizers:
        torch.nn.init.ones_(synchronizer.gate)
    opened = lm(
        lm.embed(ids),
        position_ids=torch.arange(12).expand(2, -1),
        mask=torch.ones(12, 12, dtype=torch.bool).tril().expand(2, 1, -1, -1),
        values=lm.project_values(features),
        visible=torch.tensor([0, 3]).expand(2, 12, 2),
    )
    assert (opened - hidden).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("placement", ["up", "skips"])
@torch.no_grad()
def test_the_prediction_is_the_u_nets_own(parts: Folders, tmp_path: Path, kind: str, placement: str) -> None:
    folder, base = write_diffusion(tmp_path, kind), like()
    base = dataclasses.replace(base, image_decoder=dataclasses.replace(base.image_decoder, mmfs_placement=placement))
    decoder = MMInterleaved.from_parts(**{**parts, "image_decoder": folder}, like=base).image_decoder
    original = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    sample, timestep = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    context = torch.randn(2, 5, U_NETS[kind]["cross_attention_dim"])
    values = decoder.unet.project_values(torch.randn(3, 340, 16))
    seen = {"values": values, "visible": torch.tensor([[0, 3], [1, 2]])}
    expected = original(sample, timestep, encoder_hidden_states=context).sample
    torch.testing.assert_close(decoder.unet(sample, timestep, context, **seen), expected)
    for synchronizer in decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight)
    assert (decoder.unet(sample, timestep, context, **seen) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("image_half", [False, True], ids=["clip", "image half"])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 56)], ids=str)
@torch.no_grad()
def test_patches_are_clips_own_at_every_size(
    parts: Folders, tmp_path: Path, shape: tuple[int, int], image_half: bool
) -> None:
    folder = write_clip(tmp_path, image_half=image_half)
    model = MMInterleaved.from_parts(**{**parts, "vision_encoder": folder}, like=like(), image_size=shape)
    tokenizer = model.visual_tokenizer
    pixels = torch.rand(2, 3, *shape)
    normalised = (pixels - 0.5) / 0.25  # what the snapshot says
    hidden, _ = tokenizer.adapter(normalised)
    expected = CLIPVisionModel.from_pretrained(folder)(normalised, interpolate_pos_encoding=True).last_hidden_state
    assert_equal_up_to_rounding(hidden, expected)
    tokens, features = tokenizer(pixels)
    assert tokens.shape == (2, 2, 32)
    assert features.shape == (2, sum(h * w for h, w in tokenizer.spatial_shapes), 16)
    torch.testing.assert_close(tokenizer.image_mean.flatten(), torch.tensor([0.5] * 3))


@torch.no_grad()
def test_latents_images_and_noise_are_stable_diffusions_own(model: MMInterleaved, parts: Folders) -> None:
    decoder = model.image_decoder
    vae = AutoencoderKL.from_pretrained(parts["image_decoder"], subfolder="vae")
    pixels = torch.rand(1, 3, 64, 64)
    latents = vae.encode(pixels * 2 - 1).latent_dist.mode() * 0.3
    assert decoder.latent_shape == latents.shape[1:] == (4, 8, 8)
    torch.testing.assert_close(decoder.codec.encode(pixels), latents)
    torch.testing.assert_close(decoder.codec.decode(latents), (vae.decode(latents / 0.3).sample / 2 + 0.5).clamp(0, 1))
    schedule = DDPMScheduler.from_pretrained(parts["image_decoder"], subfolder="scheduler")
    torch.testing.assert_close(decoder.noise_schedule.alphas_cumprod, schedule.alphas_cumprod)
    assert decoder.noise_schedule.config.prediction_type == "v_prediction"
    assert not decoder.noise_schedule.config.clip_sample


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 56)], ids=str)
def test_it_trains_what_is_not_frozen_and_leaves_the_parts_alone(parts: Folders, shape: tuple[int, int]) -> None:
    model = MMInterleaved.from_parts(**parts, like=like(gate=0.3), image_size=shape).train()
    batch = batch_for(model, [[["image", 9, "draw"], [9, "image"]], [[40]]], shape=shape)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(batch).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None and p.requires_grad}
    assert not without - {"image_decoder.negative_context"}  # whether a condition is dropped is a matter of its key
    frozen = ("visual_tokenizer.adapter.vision_model", "language_model.host", "image_decoder.codec.vae")
    assert all(name.startswith(frozen) for name, p in model.named_parameters() if p.grad is None)
    before = model.begin_of_image.detach().clone()
    unet_before = model.image_decoder.unet.host.conv_in.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.begin_of_image, before)
    assert not torch.equal(model.image_decoder.unet.host.conv_in.weight, unet_before)
    model.image_decoder.unet.host.load_state_dict(
        load_file(parts["image_decoder"] / "unet" / "diffusion_pytorch_model.safetensors")
    )
    assert_parts_are_untouched(model, parts)


@torch.no_grad()
def test_new_tokens_leave_the_vocabularys_tables_alone(model: MMInterleaved, parts: Folders) -> None:
    config, lm = model.config, model.language_model
    assert (config.bos_token_id, config.eos_token_id) == (0, 1)
    assert [config.begin_of_image_id, config.image_token_id, config.pad_token_id] == [258, 259, 260]
    assert lm.vocabulary_size == VOCABULARY + 1
    assert_parts_are_untouched(model, parts)
    ids = torch.tensor([[5, config.begin_of_image_id, config.image_token_id, 7]])
    none = torch.zeros(0, 2, dtype=torch.int64)
    embedded = model.embed(ids, torch.zeros(0, 0, 32), none)[0]
    table = lm.host.get_input_embeddings().weight
    torch.testing.assert_close(embedded, torch.stack([table[5], table.mean(0), torch.zeros(32), table[7]]))

    torch.nn.init.normal_(lm.new_token_head.weight)
    logits, hidden = lm.logits(torch.ones(3, 32)), torch.ones(3, 32)
    assert logits.shape == (3, VOCABULARY + 1)
    torch.testing.assert_close(logits[:, 258:], lm.new_token_head(hidden))
    torch.testing.assert_close(logits[:, :258], lm.host.lm_head(hidden)[:, :258])
    torch.nn.init.zeros_(lm.new_token_head.weight)


def test_the_tokenizer_comes_along(model: MMInterleaved) -> None:
    processor = model.processor
    assert processor.decode_text(processor.encode_text("A fox, ü.")) == "A fox, ü."
    assert processor.tokenizer.token_to_id("<BoI>") == model.config.begin_of_image_id
    assert model.config.begin_of_image_id not in processor.encode_text("<BoI>")
    assert processor.encode_image(torch.rand(3, 50, 40)).shape == (3, 32, 32)


def test_it_reads_and_writes(model: MMInterleaved) -> None:
    pixels = torch.rand(3, 40, 40)
    text = model.generate(["A fox", pixels], mode="text", max_new_tokens=4)
    again = model.generate(["A fox", pixels], mode="text", max_new_tokens=4)
    assert list(text) == list(again)
    drawn = model.generate(["A fox", pixels], mode="image", num_inference_steps=2)
    assert [piece.size for piece in drawn] == [(64, 64)]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@torch.no_grad()
def test_saved_and_read_again_it_is_the_same(parts: Folders, tmp_path: Path, kind: str) -> None:
    """Qwen's head is its embedding."""
    folder = write_language_model(tmp_path / kind, kind)
    model = MMInterleaved.from_parts(**{**parts, "language_model": folder}, like=like(gate=0.3), image_size=(24, 32))
    model.save_pretrained(tmp_path / "saved")
    loaded = MMInterleaved.from_pretrained(tmp_path / "saved")
    assert loaded.config.to_dict() == model.config.to_dict()
    assert loaded.processor.encode_image(torch.rand(3, 50, 40)).shape == (3, 24, 32)
    batch = batch_for(model, [[["image", 9, "draw"]]], shape=(24, 32))
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items()), "they are copies"
    assert_equal_up_to_rounding(loaded(batch).loss, model(batch).loss)


@pytest.mark.parametrize("offset", OFFSETS)
@torch.no_grad()
def test_weights_mean_the_same_wherever_they_lie(model: MMInterleaved, offset: int) -> None:
    """Matrix products may add in another order where weights begin at another address; nothing else changes."""
    moved = copy.deepcopy(model)
    move_parameters(moved, offset)
    batch = batch_for(model, [[["image", 9, "draw"]]])
    assert_equal_up_to_rounding(moved(batch).loss, model(batch).loss)


@pytest.mark.own_allocator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_weight_lies_where_its_file_happens_to_put_it(parts: Folders, tmp_path: Path, dtype: torch.dtype) -> None:
    """This guards that a resumed run is equal bit for bit: libraries map files into memory, where weights begin at any
    address, and so the bits of a step would depend on the file that the weights came from."""
    folders = {**parts, "language_model": write_language_model(tmp_path, "qwen2")}
    mapped = load_file(folders["image_decoder"] / "unet" / "diffusion_pytorch_model.safetensors")
    assert any(tensor.data_ptr() % LINE for tensor in mapped.values()), "the snapshots give no such case"
    model = MMInterleaved.from_parts(**folders, like=like(), dtype=dtype)
    assert {name: p.data_ptr() % LINE for name, p in model.named_parameters() if p.data_ptr() % LINE} == {}
    assert model.language_model.host.lm_head.weight is model.language_model.host.get_input_embeddings().weight


@pytest.mark.parametrize("lm_dtype", [None, torch.float32], ids=["all bf16", "language model float32"])
def test_bfloat16(parts: Folders, lm_dtype: torch.dtype | None) -> None:
    options = {"dtype": torch.bfloat16, "language_model_dtype": lm_dtype}
    model = MMInterleaved.from_parts(**parts, like=like(gate=0.3), **options)
    for name, parameter in model.named_parameters():
        expected = lm_dtype if lm_dtype and name.startswith("language_model.host") else torch.bfloat16
        assert parameter.dtype == expected, name
    assert model.language_model.decoder.rotary_emb.inv_freq.dtype == torch.float32
    assert_parts_are_untouched(model, parts)
    batch = batch_for(model, [[["image", 9, "draw"]]])
    loss = model.train()(batch).loss
    loss.backward()
    exact = MMInterleaved.from_parts(**parts, like=like(gate=0.3))
    exact.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    torch.testing.assert_close(loss.float(), exact.train()(batch).loss, rtol=0.03, atol=0)
    assert model.eval().generate([torch.rand(3, 32, 32)], mode="image", num_inference_steps=2)


@torch.no_grad()
def test_shards_and_pickled_weights_are_the_same_weights(parts: Folders, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = write_language_model(tmp_path / "whole")
    torch.manual_seed(1)
    sharded = write_language_model(tmp_path / "sharded", shard="30KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    pickled = write_language_model(tmp_path / "pickled")
    torch.save(load_file(whole / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for folder in (sharded, pickled):
        model = MMInterleaved.from_parts(**{**parts, "language_model": folder}, like=like())
        assert_parts_are_untouched(model, {**parts, "language_model": whole})


@torch.no_grad()
def test_a_vae_with_the_attention_names_of_old_files(parts: Folders, tmp_path: Path) -> None:
    """Stable Diffusion's own snapshots have them."""
    folder = write_diffusion(tmp_path)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights, renamed = load_file(file), {}
    for name, tensor in weights.items():
        for new_part, old_part in old.items():
            name = name.replace(f"attentions.0.{new_part}.", f"attentions.0.{old_part}.")
        renamed[name] = tensor
    assert len(renamed.keys() - weights.keys()) == 16
    save_file(renamed, file, metadata={"format": "pt"})
    model = MMInterleaved.from_parts(**{**parts, "image_decoder": folder}, like=like())
    for name, tensor in model.image_decoder.codec.vae.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_language_model_is_nearly_the_same(parts: Folders, tmp_path: Path, bits: int) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantised weights need bitsandbytes")
    folder = write_language_model(tmp_path, hidden_size=128, intermediate_size=256)
    options = {**parts, "language_model": folder, "like": like(gate=0.3), "dtype": torch.bfloat16}
    exact = MMInterleaved.from_parts(**options)
    model = MMInterleaved.from_parts(**options, language_model_bits=bits)
    kind = {8: bitsandbytes.nn.Linear8bitLt, 4: bitsandbytes.nn.Linear4bit}[bits]
    assert all(isinstance(layer.mlp.up_proj, kind) for layer in model.language_model.decoder.layers)
    own = {name for name in exact.state_dict() if not name.startswith("language_model.host")}
    model.load_state_dict({name: exact.state_dict()[name] for name in own}, strict=False)
    batch = batch_for(model, [[["image", 9, "draw"]]])
    loss = model(batch).loss_text
    torch.testing.assert_close(loss, exact(batch).loss_text, rtol=0.1, atol=0.1)
    loss.backward()  # through the quantised layers to what is below them
    assert all(synchronizer.gate.grad.abs() > 0 for synchronizer in model.language_model.synchronizers)
    assert not any(p.requires_grad for p in model.language_model.host.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size is 30; expected .* multiples of the patch size 8"),
        ({"image_size": (32, 4)}, r"image_size is \(32, 4\); expected"),
        ({"drawn_image_size": 72}, "drawn_image_size is 72; expected a multiple of 16"),
        ({"drawn_image_size": (64, 72)}, r"drawn_image_size is \(64, 72\); expected a multiple of 16"),
        ({"language_model_bits": 5}, "language_model_bits is 5; expected 8, 4, or None"),
        ({"language_model_bits": 8, "frozen": ["vae"]}, "quantised language model can't be trained"),
        ({"frozen": ["clip"]}, "no component 'clip' to freeze; expected some of vision_encoder, language_model, vae"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(parts: Folders, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMInterleaved.from_parts(**parts, like=like(), **options)


def test_sizes_that_do_not_divide_are_said_before_weights_are_read(parts: Folders, tmp_path: Path) -> None:
    base = like()
    three = dataclasses.replace(base, visual_tokenizer=dataclasses.replace(base.visual_tokenizer, adapter_blocks=3))
    with pytest.raises(ValueError, match="2 layers, which do not divide into 3 groups"):
        MMInterleaved.from_parts(**parts, like=three)
    five = dataclasses.replace(base, image_decoder=dataclasses.replace(base.image_decoder, resampler_heads=5))
    with pytest.raises(ValueError, match="24 channels, which do not divide into 5 heads"):
        MMInterleaved.from_parts(**parts, like=five)


def test_a_tokenizer_from_elsewhere(parts: Folders, tmp_path: Path) -> None:
    folder = write_language_model(tmp_path / "lm")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    options = {**parts, "language_model": folder, "like": like()}
    with pytest.raises(FileNotFoundError, match=r"no tokenizer that can be read.* as tokenizer=\."):
        MMInterleaved.from_parts(**options)
    model = MMInterleaved.from_parts(**options, tokenizer=write_tokenizer(tmp_path / "tokenizer"))
    assert model.config.begin_of_image_id == 258


@torch.no_grad()
def test_no_text_may_start_as_stable_diffusions_empty_prompt(parts: Folders, tmp_path: Path) -> None:
    def build(diffusion: Path) -> MMInterleaved:
        return MMInterleaved.from_parts(
            **{**parts, "image_decoder": diffusion}, like=like(), negative_context="empty_prompt"
        )

    with pytest.raises(FileNotFoundError, match="text_encoder"):
        build(parts["image_decoder"])
    diffusion = shutil.copytree(parts["image_decoder"], tmp_path / "sd")
    encoder = write_text_encoder(diffusion, num_tokens=3)
    begin, end, padding = 1, 2, 0
    expected = encoder(torch.tensor([[begin, end, padding]])).last_hidden_state[0]
    torch.testing.assert_close(build(diffusion).image_decoder.negative_context, expected)
    shutil.rmtree(diffusion / "tokenizer")
    shutil.rmtree(diffusion / "text_encoder")
    write_text_encoder(diffusion, num_tokens=5)
    with pytest.raises(ValueError, match="makes 5 tokens of 24 channels; the image decoder reads 3 of 24"):
        build(diffusion)
    with pytest.raises(ValueError, match="negative_context is 'empty'; expected 'new' or 'empty_prompt'"):
        MMInterleaved.from_parts(**parts, like=like(), negative_context="empty")
