import pytest
import torch
from torch import nn

from trainer.step.gradient_norms import gradient_norms, part_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("language_model.decoder.layers.3.self_attn.q_proj.weight", "language_model.decoder.layers.3"),
        ("visual_tokenizer.adapter.spatial.weight", "visual_tokenizer.adapter"),
        ("image_decoder.unet.down_blocks.0.resnets.1.bias", "image_decoder.unet.down_blocks.0"),
        ("image_loss.bias", "image_loss"),
        ("begin_of_image", "begin_of_image"),
    ],
)
def test_the_part_of_a_parameter(name, expected):
    assert part_of(name) == expected


def test_the_norms_of_parts_make_up_that_of_all():
    torch.manual_seed(0)
    module = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(3, 3) for _ in range(2)), "head": nn.Linear(3, 1)})
    module["unused"] = nn.Linear(3, 1)
    hidden = torch.randn(4, 3)
    for layer in module["layers"]:
        hidden = layer(hidden)
    module["head"](hidden).sum().backward()
    norms = gradient_norms(module)
    assert norms.keys() == {"layers.0", "layers.1", "head"}
    expected = torch.cat([p.grad.flatten() for p in module["layers"][1].parameters()]).norm()
    torch.testing.assert_close(norms["layers.1"], expected)
    whole = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(torch.stack(list(norms.values())).norm(), whole)
