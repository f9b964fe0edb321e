import pytest
import torch
from diffusers import UNet2DConditionModel

from models import MMInterleavedConfig
from models.synchronized_unet import SynchronizedUNet, skip_channels
from models.synchronizer import bind
from numerics import assert_equal_up_to_rounding

SHAPES = ((6, 4), (3, 2))
FEATURES = 10
PLACEMENTS = ["up", "skips"]


def build(placement: str, *, mmfs: bool = True) -> SynchronizedUNet:
    config = MMInterleavedConfig.tiny().image_decoder
    return SynchronizedUNet(
        UNet2DConditionModel(**config.unet),
        feature_dim=FEATURES,
        spatial_shapes=SHAPES,
        mmfs=config.mmfs if mmfs else None,
        placement=placement,
    ).eval()


def open_convolutions(unet: SynchronizedUNet) -> SynchronizedUNet:
    for synchronizer in unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.5)
    return unet


def inputs(height: int = 16, width: int = 12) -> dict:
    return {
        "sample": torch.randn(2, 4, height, width),
        "timestep": torch.tensor([3, 700]),
        "context": torch.randn(2, 3, 16),
        "features": torch.randn(3, 30, FEATURES),
        "visible": torch.tensor([[0, 2], [2, 3]]),
    }


def run(unet: SynchronizedUNet, data: dict) -> torch.Tensor:
    values = unet.project_values(data["features"])
    return unet(data["sample"], data["timestep"], data["context"], values=values, visible=data["visible"])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_new_synchronizer_changes_nothing(placement: str) -> None:
    unet, data = build(placement), inputs()
    plain = unet.host(data["sample"], data["timestep"], encoder_hidden_states=data["context"]).sample
    assert_equal_up_to_rounding(run(unet, data), plain)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_only_visible_images_matter(placement: str) -> None:
    unet, data = open_convolutions(build(placement)), inputs()
    before = run(unet, data)
    data["features"] = data["features"].clone()
    data["features"][2] = torch.randn(30, FEATURES)  # image 2 is seen by the second image only
    after = run(unet, data)
    assert_equal_up_to_rounding(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-4


def test_up_places_one_after_each_up_block() -> None:
    unet, data = open_convolutions(build("up")), inputs()
    assert [s.conv.in_channels for s in unet.synchronizers] == [16, 8]
    seen: list[tuple[int, ...]] = []
    for synchronizer in unet.synchronizers:
        synchronizer.register_forward_hook(lambda _module, _args, output: seen.append(tuple(output.shape)))
    run(unet, data)
    assert seen == [(2, 16, 16, 12), (2, 8, 16, 12)]


def test_skips_equal_residuals_passed_by_hand() -> None:
    """Against diffusers' own way in: residuals added by the caller (as for a ControlNet)."""
    unet, data = open_convolutions(build("skips")), inputs()
    got = run(unet, data)
    residuals: list[torch.Tensor] = []
    middle: list[torch.Tensor] = []

    def remember(_block: object, _args: object, kwargs: dict) -> None:
        residuals[:0] = kwargs["res_hidden_states_tuple"]  # the up path takes them from the end

    hooks = [block.register_forward_pre_hook(remember, with_kwargs=True, prepend=True) for block in unet.host.up_blocks]
    hooks.append(unet.host.mid_block.register_forward_hook(lambda _block, _args, output: middle.append(output)))
    unet.host(data["sample"], data["timestep"], encoder_hidden_states=data["context"])
    for hook in hooks:
        hook.remove()
    assert [r.shape[1] for r in residuals] == skip_channels(unet.host)
    *skips, mid = bind(unet.synchronizers, unet.project_values(data["features"]), data["visible"])
    down = tuple(sync(r) - r for sync, r in zip(skips, residuals, strict=True))
    added = mid(middle[0]) - middle[0]
    expected = unet.host(
        data["sample"],
        data["timestep"],
        encoder_hidden_states=data["context"],
        down_block_additional_residuals=down,
        mid_block_additional_residual=added,
    ).sample
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradients_reach_every_synchronizer(placement: str) -> None:
    unet = open_convolutions(build(placement)).train()
    run(unet, inputs()).square().sum().backward()
    missing = [name for name, p in unet.synchronizers.named_parameters() if p.grad is None]
    assert not missing


def test_the_host_keeps_its_names_and_can_be_left_alone() -> None:
    unet, data = build("up", mmfs=False), inputs()
    assert unet.project_values(data["features"]) == []
    plain = UNet2DConditionModel(**MMInterleavedConfig.tiny().image_decoder.unet)
    assert build("skips").host.state_dict().keys() == plain.state_dict().keys()
    assert run(unet, data).shape == data["sample"].shape
