import pytest
import torch
from torch import Tensor

from mmfs import MMFS
from models import MMInterleaved, MMInterleavedConfig
from trainer.data.emoji.tasks import documents
from trainer.demo.sampling_locations import sampled_image, sampling_points


def coordinates(shapes: tuple[tuple[int, int], ...], num_heads: int) -> Tensor:
    """Values [1, S, H, 2] that hold the place (x, y) of their own pixel, so that a sample is where it was taken."""
    levels = []
    for h, w in shapes:
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        levels.append(torch.stack([x, y], dim=-1).view(h * w, 1, 2))
    return torch.cat(levels).expand(-1, num_heads, 2)[None].contiguous()


@pytest.mark.parametrize("null", [True, False])
def test_the_points_are_those_that_the_layer_samples(null: bool) -> None:
    torch.manual_seed(0)
    layer = MMFS(8, 8, spatial_shapes=((16, 32), (8, 16)), num_heads=2, num_points=3, value_dim=4, null=null)
    for linear in (layer.sampling_offsets, layer.attention_weights):
        torch.nn.init.normal_(linear.weight, std=0.3)
    query = torch.randn(8)
    captured: list[Tensor] = []  # what the layer samples, before its output projection
    layer.output_proj.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    layer(
        query.view(1, 1, 8),
        torch.tensor([0.5, 0.5]),
        torch.tensor([[[0, 1]]]),
        values=coordinates(layer.spatial_shapes, layer.num_heads),
    )
    places, weights = sampling_points(layer, query)
    assert ((places > 0.1) & (places < 0.9)).all(), "the check holds between the outermost pixel centres"
    mean_place = (places * weights[:, None]).view(2, 3, 2).sum(1)  # a head's mean place, weighted
    torch.testing.assert_close(captured[0].view(2, 2), mean_place)
    share = weights.view(2, 3).sum(1)
    assert (share < 1).all() if null else torch.allclose(share, torch.ones(2))


def test_a_question_is_looked_at_with_every_layer(model: MMInterleaved) -> None:
    [document] = documents("read", "val", 0, 1)
    sampled = sampled_image(model, document, "37")
    sync = model.config.language_model.mmfs
    assert sync is not None
    assert len(sampled.points) == 2 * sync.num_heads * sync.num_points  # layers 0 and 2
    assert sampled.question == document.segments[1].text
    for synchronizer in model.language_model.synchronizers:
        assert not synchronizer.mmfs._forward_pre_hooks


def test_what_cannot_be_looked_at_is_refused(model: MMInterleaved) -> None:
    [story] = documents("story", "val", 0, 1)
    with pytest.raises(ValueError, match="an image and a question"):
        sampled_image(model, story, "")
    blind = MMInterleaved(MMInterleavedConfig.tiny().without_mmfs(), model.processor)
    [document] = documents("read", "val", 0, 1)
    with pytest.raises(ValueError, match="no MMFS layers"):
        sampled_image(blind, document, "")
