"""SDXL's U-Net: tokens, a pooled embedding and sizes of the language model's states, as diffusers takes them."""

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from models import MMInterleavedConfig
from models.component_configs import ImageDecoderConfig
from models.denoising_options import Denoising
from models.image_decoders.condition import Condition
from models.image_decoders.make import make_image_decoder
from models.image_decoders.stable_diffusion import StableDiffusion
from models.image_decoders.stable_diffusion_xl import StableDiffusionXL, pooled_width
from tiny_snapshots import U_NETS

TINY = MMInterleavedConfig.tiny().image_decoder
CONFIG = dataclasses.replace(TINY, unet={**TINY.unet, **U_NETS["sdxl"]}, image_size=(32, 48))
PIXELS = dataclasses.replace(
    CONFIG, vae=None, pixel_fold=2, unet={**CONFIG.unet, "in_channels": 12, "out_channels": 12}
)
POOLED = 20


def build(config=CONFIG, *, opened: bool = True) -> StableDiffusionXL:
    decoder = make_image_decoder(config, context_dim=32, feature_dim=10, spatial_shapes=((4, 4), (2, 2))).eval()
    assert type(decoder) is StableDiffusionXL
    for synchronizer in decoder.unet.synchronizers if opened else ():
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    return decoder


def condition_of(decoder: StableDiffusionXL, num_images: int = 2) -> Condition:
    return decoder.condition(torch.randn(num_images, 5, 32), torch.ones(num_images, 5, dtype=torch.bool))


def seen(decoder: StableDiffusionXL) -> dict:
    features = torch.randn(3, 20, 10)
    return {"values": decoder.unet.project_values(features), "visible": torch.tensor([[0, 2], [2, 3]])}


def test_the_u_nets_arguments_choose_the_decoder() -> None:
    options = {"context_dim": 32, "feature_dim": 10, "spatial_shapes": ((4, 4), (2, 2))}
    assert type(make_image_decoder(TINY, **options)) is StableDiffusion
    other = dataclasses.replace(TINY, unet={**TINY.unet, "addition_embed_type": "image"})
    with pytest.raises(ValueError, match=r"addition_embed_type 'image'; expected none .* or 'text_time'"):
        make_image_decoder(other, **options)


@pytest.mark.parametrize("lacking", ["projection_class_embeddings_input_dim", "addition_time_embed_dim"])
def test_a_u_net_that_leaves_no_room_for_the_pooled_embedding_is_refused(lacking: str) -> None:
    assert pooled_width(U_NETS["sdxl"]) == POOLED
    assert pooled_width({"projection_class_embeddings_input_dim": 2816, "addition_time_embed_dim": 256}) == 1280
    with pytest.raises(ValueError, match="as 256 and 2816 of SDXL base"):
        pooled_width({**U_NETS["sdxl"], lacking: None})
    with pytest.raises(ValueError, match="addition_time_embed_dim 8 and projection_class_embeddings_input_dim 44"):
        pooled_width({**U_NETS["sdxl"], "addition_time_embed_dim": 8})


@torch.no_grad()
def test_a_condition_is_what_diffusers_takes() -> None:
    """Tokens, the last one of the resampler behind a linear map, and sizes in the order of SDXL's own pipeline."""
    decoder = build()
    context, exists = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    condition = decoder.condition(context, exists)
    read = decoder.read_context(context, exists)
    assert read.shape == (2, TINY.num_context_tokens + 1, 32)
    torch.testing.assert_close(condition.tokens, read[:, :-1])
    assert list(condition.named()) == ["encoder_hidden_states", "text_embeds", "time_ids"]
    torch.testing.assert_close(condition.added["text_embeds"], read[:, -1] @ decoder.pooled_proj.weight.T)
    original, crop, target = (32, 48), (0, 0), (32, 48)  # (height, width), (top, left), (height, width)
    assert condition.added["time_ids"].tolist() == [[*original, *crop, *target]] * 2

    negative = decoder.negative(condition)
    assert (negative.tokens == decoder.negative_context).all()
    assert (negative.added["text_embeds"] == decoder.negative_pooled).all()
    assert negative.added["time_ids"].tolist() == condition.added["time_ids"].tolist()


@torch.no_grad()
def test_with_closed_gates_it_computes_what_the_u_net_computes_alone() -> None:
    decoder = build(opened=False)
    alone = UNet2DConditionModel(**CONFIG.unet).eval()
    alone.load_state_dict(decoder.unet.host.state_dict())
    condition, sample, timestep = condition_of(decoder), torch.randn(2, 4, 16, 24), torch.tensor([10, 700])
    added = {"text_embeds": condition.added["text_embeds"], "time_ids": torch.tensor([[32.0, 48, 0, 0, 32, 48]] * 2)}
    expected = alone(sample, timestep, encoder_hidden_states=condition.tokens, added_cond_kwargs=added).sample
    arguments = sample, timestep, condition.tokens, condition.added
    torch.testing.assert_close(decoder.unet(*arguments, **seen(decoder)), expected, rtol=1e-5, atol=1e-5)

    for name, other in (
        ("text_embeds", added["text_embeds"] + 1),
        ("time_ids", torch.tensor([[8.0, 8, 0, 0, 32, 48]] * 2)),
    ):
        changed = decoder.unet(sample, timestep, condition.tokens, {**added, name: other}, **seen(decoder))
        assert (changed - expected).abs().max() > 1e-4, name
    for synchronizer in decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    assert (decoder.unet(*arguments, **seen(decoder)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("config", [CONFIG, PIXELS], ids=["vae", "pixels"])
def test_it_learns(config) -> None:
    """The loss falls, and gradients reach the resampler, the pooled head, both negatives and MMFS."""
    decoder = build(config, opened=False).train()
    context, exists = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    pixels, features, keys = torch.rand(2, 3, 32, 48), torch.randn(3, 20, 10), torch.tensor([7, 8])
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        loss = decoder.loss(
            pixels,
            decoder.condition(context, exists),
            values=decoder.unet.project_values(features),
            visible=torch.tensor([[0, 2], [2, 3]]),
            keys=keys,
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    learned = {
        "resampler": decoder.resampler.queries,
        "pooled": decoder.pooled_proj.weight,
        "mmfs": decoder.unet.synchronizers[0].conv.weight,
        "added embedding": decoder.unet.host.add_embedding.linear_1.weight,
    }
    for name, parameter in learned.items():
        assert parameter.grad.abs().max() > 0, name
    dropping = build(dataclasses.replace(config, text_drop=1.0)).train()
    condition = condition_of(dropping)
    dropping.loss(pixels, condition, **seen(dropping), keys=keys).sum().backward()
    assert dropping.negative_context.grad.abs().max() > 0
    assert dropping.negative_pooled.grad.abs().max() > 0
    assert dropping.pooled_proj.weight.grad.abs().max() == 0, "the text was dropped"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "ddpm"])
def test_it_draws(scheduler) -> None:
    decoder = build()
    condition, look = condition_of(decoder), seen(decoder)

    def drawn(condition: Condition, **changes: float) -> torch.Tensor:
        denoising = Denoising(num_inference_steps=2, scheduler=scheduler, **changes)
        return decoder.sample(condition, **look, seeds=[1, 2], denoising=denoising)

    first = drawn(condition)
    assert first.shape == (2, 3, 32, 48)
    assert first.isfinite().all()
    torch.testing.assert_close(drawn(condition), first)
    other = Condition(condition.tokens, {**condition.added, "text_embeds": condition.added["text_embeds"] + 1})
    assert (drawn(other) - first).abs().max() > 1e-4
    plain, nearly = drawn(condition, guidance_scale=1.0), drawn(condition, guidance_scale=1.0 + 1e-6)
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=1e-4)
    assert drawn(condition, image_guidance_scale=2.0).shape == first.shape


@pytest.mark.slow
@torch.no_grad()
def test_the_full_size_is_sdxls() -> None:
    """Parameters as published with SDXL base 1.0, and a step of drawing at 1024 px, on tensors without data."""
    config = ImageDecoderConfig.sdxl_base()
    shapes_of_features = ((64, 64), (32, 32), (16, 16), (8, 8))
    with torch.device("meta"):
        decoder = make_image_decoder(
            config, context_dim=5120, feature_dim=1024, spatial_shapes=shapes_of_features
        ).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder.to_empty(device="cpu")
        assert sum(p.numel() for p in decoder.unet.host.parameters()) == 2_567_463_684
        assert sum(p.numel() for p in decoder.codec.vae.parameters()) == 83_653_863
        assert decoder.latent_shape == (4, 128, 128)
        assert [one.conv.in_channels for one in decoder.unet.synchronizers] == [1280, 640, 320]
        condition = decoder.condition(torch.zeros(2, 7, 5120), torch.ones(2, 7, dtype=torch.bool))
        shapes = {name: tuple(tensor.shape) for name, tensor in condition.named().items()}
        assert shapes == {"encoder_hidden_states": (2, 77, 2048), "text_embeds": (2, 1280), "time_ids": (2, 6)}
        assert {name: shape[1:] for name, shape in shapes.items()} == decoder.condition_shapes
        predicted = decoder.unet(
            torch.zeros(2, *decoder.latent_shape),
            torch.zeros(2),
            condition.tokens,
            condition.added,
            values=decoder.unet.project_values(torch.zeros(3, 5440, 1024)),
            visible=torch.zeros(2, 2, dtype=torch.int64),
        )
        assert predicted.shape == (2, 4, 128, 128)
