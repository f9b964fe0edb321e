"""Every part against what the released code returned for the same random weights (tests/data/README.md)."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from models import Batch, MMInterleaved, MMInterleavedConfig
from models.batch import IGNORED
from models.component_configs import LanguageModelConfig, QFormerConfig, SynchronizerConfig
from models.language_model import LanguageModel
from models.qformer import QFormer
from models.released.names import (
    MMFS,
    QFORMER,
    UNET_SYNCHRONIZER,
    NameTable,
    Row,
    adapter_rows,
    from_released,
    language_rows,
    our_layout,
    recomputed,
    to_released,
    under,
)
from models.sequence import attention_mask, gather_context, image_visible, position_ids, token_visible
from models.synchronized_unet import UNetSynchronizer
from models.vision_encoders.clip import CLIPEncoder
from models.vit_adapter import ViTAdapter

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = 1e-5
"""Of the largest element of the oracle."""


def oracle(name: str, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights (their names without `prefix`) and the other tensors of one case, float32."""
    tensors = load(lzma.decompress((DATA / f"released_{name}.safetensors.xz").read_bytes()))
    prefix = f"state_dict.{prefix}"
    weights = {key.removeprefix(prefix): t.float() for key, t in tensors.items() if key.startswith("state_dict.")}
    return weights, {key: t for key, t in tensors.items() if not key.startswith("state_dict.")}


def fill(module: nn.Module, weights: Mapping[str, Tensor], rows: Iterable[Row], *, without: Set[str] = frozenset()):
    """Load released weights through the rows of the table; `without` are those that ours computes or does not have."""
    table, shapes = NameTable(rows), {name: tensor.shape for name, tensor in module.state_dict().items()}
    state = {}
    for name, tensor in weights.items():
        if name not in without:
            ours, layout = table.ours(name)
            state[ours] = our_layout(name, tensor, layout, shapes[ours])
    lacking = module.load_state_dict(state, strict=False)
    assert not lacking.unexpected_keys
    return set(lacking.missing_keys)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE, f"relative error {error:.2e}"


def ranges(mask: Tensor) -> Tensor:
    """[B, ..., M] of 0 and 1, the images of a row side by side in the bank -> [B, ..., 2], first and one past last."""
    num_images = mask.shape[-1]
    seen, index = mask.bool(), torch.arange(num_images)
    last = torch.where(seen, index + 1, 0).amax(-1)
    first = torch.minimum(torch.where(seen, index, num_images).amin(-1), last)
    assert torch.equal(seen, (index >= first[..., None]) & (index < last[..., None])), "the mask is not a range"
    row = torch.arange(len(mask)).view(-1, *[1] * (mask.ndim - 2)) * num_images
    return torch.stack([first + row, last + row], dim=-1)


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_qformer(qk_norm: bool) -> None:
    weights, case = oracle("resampler_qknorm" if qk_norm else "resampler_plain")
    qformer = QFormer(
        num_queries=6,
        dim=32,
        input_dim=48,
        output_dim=None,
        num_layers=4,
        num_heads=4,
        cross_every=2,
        ffn_dim=64,
        qk_norm=qk_norm,
    )
    assert not fill(qformer, weights, QFORMER)
    assert not case["mask"].bool().all()
    assert_equal(qformer(case["x"], case["mask"].bool()), case["y"])


@torch.no_grad()
def test_vit_adapter() -> None:
    weights, case = oracle("vit_adapter", "vision_model.")
    clip = CLIPEncoder.new(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
        }
    )
    adapter = ViTAdapter(clip, num_heads=4).eval()
    missing = fill(adapter, weights, adapter_rows(4), without={"embeddings.position_ids"})
    assert missing == {"vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias"}

    hidden, maps = adapter(case["pixel_values"])
    assert_equal(hidden, case["last_hidden_state"])
    for level, map_ in enumerate(maps):
        assert_equal(map_, case[f"features.{level}"])


@torch.no_grad()
def test_language_model() -> None:
    weights, case = oracle("llm_mmfs", "model.")
    config = LanguageModelConfig(
        transformer={
            "model_type": "llama",
            "vocab_size": 32,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "rms_norm_eps": 1e-6,
        },
        mmfs=SynchronizerConfig(value_dim=32, max_age=49),
        mmfs_every=2,
        mmfs_levels=(0, 3),
    )
    model = LanguageModel(config, feature_dim=32, spatial_shapes=((8, 8), (4, 4), (2, 2))).eval()
    missing = fill(model, weights, language_rows([0, 2]))
    assert missing == {"host.model.embed_tokens.weight", "host.lm_head.weight"}

    states: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _layer, _args, output: states.append(output))
    length = case["inputs_embeds"].shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril() & case["attention_mask"].bool()[:, None, None]
    last = model(
        case["inputs_embeds"],
        position_ids=torch.arange(length).expand(2, -1),
        mask=mask,
        values=model.project_values(case["feats"].flatten(0, 1)),
        visible=ranges(case["cross_mask"]),
    )
    real = case["attention_mask"].bool()
    for i, state in enumerate([*states[:-1], last], start=1):  # the release's last state is after the final norm
        assert_equal(state[real], case[f"hidden_states.{i}"][real])
    assert_equal(last[real], case["last_hidden_state"][real])


@torch.no_grad()
def test_unet_synchronizer() -> None:
    weights, case = oracle("unet_mmfsblock")
    shapes = tuple((side, side) for side in (64, 32, 16, 8))
    config = SynchronizerConfig(num_heads=4, num_points=8, value_dim=64, max_age=9)
    synchronizer = UNetSynchronizer(32, 48, shapes, config, position_table=16).eval()
    assert not fill(synchronizer, weights, (*UNET_SYNCHRONIZER, *under("mmfs", "mmfs", MMFS)), without={"pos_embed"})

    values = synchronizer.project_values(case["feats"].flatten(0, 1))
    bound = synchronizer.bind(values, ranges(case["mask"]))
    assert_equal(bound(case["sample"]) - case["sample"], case["output"])


VOCABULARY, PADDING, BEGIN_OF_IMAGE, IMAGE = 264, 261, 262, 263
"""tests/data/README.md: of the release's 32,002 tokens, the first 256 and the last 8."""


def whole_config() -> MMInterleavedConfig:
    """The released model at the sizes of the oracle."""
    released = MMInterleavedConfig.released_13b()
    lm, drawing = released.language_model, released.image_decoder
    narrow_clip = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    narrow_lm = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96}
    return replace(
        released,
        visual_tokenizer=replace(
            released.visual_tokenizer,
            vision_encoder={**released.visual_tokenizer.vision_encoder, **narrow_clip},
            num_visual_tokens=4,
            resampler_dim=24,
            resampler_layers=2,
            resampler_heads=4,
            qformer=QFormerConfig(ffn_dim=48, qk_norm=True),
            adapter_heads=4,
        ),
        language_model=replace(
            lm,
            transformer={**lm.transformer, **narrow_lm, "num_hidden_layers": 4, "num_attention_heads": 4},
            mmfs=replace(lm.mmfs, value_dim=32),
            mmfs_every=2,
        ),
        image_decoder=replace(
            drawing,
            unet={
                **drawing.unet,
                "sample_size": 32,
                "block_out_channels": (32, 32, 64, 64),
                "cross_attention_dim": 48,
                "attention_head_dim": (4, 4, 8, 8),
            },
            vae=None,
            num_context_tokens=7,
            resampler_heads=4,
            qformer=QFormerConfig(cross_every=1, ffn_dim=64),
            mmfs_position_table=32,
        ),
        pad_token_id=PADDING,
        begin_of_image_id=BEGIN_OF_IMAGE,
        image_token_id=IMAGE,
    )


@pytest.fixture(scope="module")
def released() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return oracle("full_forward")


@pytest.fixture(scope="module")
def whole(released) -> MMInterleaved:
    model = MMInterleaved(whole_config()).eval()
    model.load_state_dict(from_released(released[0], model))
    return model


@pytest.fixture(scope="module")
def case(released) -> dict[str, Tensor]:
    return released[1]


@pytest.fixture(scope="module")
def batch(case) -> Batch:
    """Row 0: a document of 18 tokens with two images, one of 9 with an image. Row 1: one of 16 with two, padding."""
    ids = case["text_ids"]
    columns = torch.arange(27)
    starts = torch.tensor([[0, 18], [0, 16]])
    document_ids = (columns >= starts[:, 1:]).long()
    document_ids[1, 16:] = -1
    row, column = (ids == BEGIN_OF_IMAGE).nonzero().unbind(1)
    return Batch(
        input_ids=ids,
        targets=F.pad(case["gt_text_ids.mmc4"], (0, 1), value=IGNORED),
        document_ids=document_ids,
        position_ids=columns - torch.where(columns >= starts[:, 1:], starts[:, 1:], 0),
        pixel_values=case["image_tensors"],
        image_positions=torch.stack([row, column + 1], dim=1),
        drawn=torch.arange(5),
        drawn_pixels=torch.zeros(5, 3, 512, 512),
        drawn_keys=torch.arange(5),
    )


def test_weights_come_back_as_they_were(released, whole) -> None:
    """Ours to the release's: the very same, but for rows and slots that are read by nobody."""
    weights, back = released[0], to_released(whole)
    left_out = {name for name in back if name.endswith("pos_embed")}  # the data keep one table of each size
    assert weights.keys() - left_out == back.keys() - left_out
    assert len(weights.keys() & left_out) == 3
    for name, tensor in weights.items():
        if name.endswith("query_relpos.weight"):
            assert torch.equal(back[name][1:], tensor[1:])
        elif ".mmfs.attention_weights" in name or "llama_cross_attn.attn.attention_weights" in name:
            lived = torch.arange(len(tensor)) % 9 != 8
            assert torch.equal(back[name][lived], tensor[lived])
        elif name in recomputed(whole):
            torch.testing.assert_close(back[name].float(), tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(back[name], tensor), name


@torch.no_grad()
def test_visual_tokens_and_features(whole, case) -> None:
    tokens, features = whole.visual_tokenizer(case["image_tensors"])
    assert_equal(tokens, case["vis_embed"])
    shapes = whole.visual_tokenizer.spatial_shapes
    for level, (h, w) in enumerate(shapes):
        start = sum(a * b for a, b in shapes[:level])
        map_ = features[:, start : start + h * w].transpose(1, 2).unflatten(2, (h, w))
        assert_equal(map_[:, :, ::5, ::3] if level < 2 else map_, case[f"multiscale_features.{level}"])


@torch.no_grad()
def test_embeddings(whole, case, batch) -> None:
    assert_equal(whole.embed(batch.input_ids, case["vis_embed"], batch.image_positions), case["mm_embeds"])


def test_who_sees_which_image(whole, case, batch) -> None:
    real = batch.document_ids >= 0
    expected = case["cross_attention_mask"].bool()  # [R, T, images of the fullest row]
    first, last = token_visible(batch).unbind(-1)
    image = torch.arange(3) + torch.tensor([0, 3])[:, None, None]  # row 0 has three images, row 1 the next
    seen = (image >= first[..., None]) & (image < last[..., None])
    assert torch.equal(seen[real], expected[real])

    first, last = image_visible(batch, whole.config.image_decoder.context_images).unbind(1)
    assert torch.equal(last - first, case["mmfs_mask"][:, 0])
    assert torch.equal(last, batch.drawn)


@pytest.fixture(scope="module")
def hidden(whole, case, batch) -> Tensor:
    """Of the language model on the oracle's embeddings, with features of our own."""
    with torch.no_grad():
        _, features = whole.visual_tokenizer(case["image_tensors"])
        return whole.language_model(
            case["mm_embeds"],
            position_ids=position_ids(batch, "causal"),
            mask=attention_mask(batch, "causal"),
            values=whole.language_model.project_values(features),
            visible=token_visible(batch),
        )


@torch.no_grad()
def test_hidden_states_and_logits(whole, case, batch, hidden) -> None:
    real = batch.document_ids >= 0
    assert_equal(hidden[real], case["mm_hidden"][real])
    logits = whole.language_model.logits(hidden)
    assert_equal(logits[..., :256][real], case["text_logits_head"][real])
    assert_equal(logits[..., 256:][real], case["text_logits_tail"][real])


@torch.no_grad()
def test_packing_decides_what_a_later_document_reads(whole, case, batch, hidden) -> None:
    """ "causal" is the release's; with "document", what stands first in a row stays the same and the rest changes."""
    _, features = whole.visual_tokenizer(case["image_tensors"])
    alone = whole.language_model(
        case["mm_embeds"],
        position_ids=position_ids(batch, "document"),
        mask=attention_mask(batch, "document"),
        values=whole.language_model.project_values(features),
        visible=token_visible(batch),
    )
    assert_equal(alone[0, :18], hidden[0, :18])
    assert (alone[0, 18:] - hidden[0, 18:]).abs().max() > 0.01


@torch.no_grad()
def test_text_loss(whole, case, batch, hidden) -> None:
    """Over the whole vocabulary: what the 264 tokens kept here leave out of the softmax is part of the data."""
    logits = whole.language_model.logits(hidden)
    total = torch.logaddexp(logits.logsumexp(-1), case["text_logits_rest_logsumexp"])
    supervised = batch.targets != IGNORED
    target = logits[supervised].gather(1, batch.targets[supervised][:, None])[:, 0]
    assert_equal((total[supervised] - target).mean(), case["loss_txt"])


@torch.no_grad()
def test_context_and_condition(whole, case, batch, hidden) -> None:
    context, exists = gather_context(hidden, batch)
    assert torch.equal(exists, case["context_mask"].bool())
    read: list[Tensor] = []  # what the resampler is given: projected, with positions
    hook = whole.image_decoder.resampler.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    tokens = whole.image_decoder.condition(context, exists).tokens
    hook.remove()
    assert_equal(read[0][exists], case["context_features"][exists])
    assert_equal(tokens, case["cond_tokens"])


@torch.no_grad()
def test_noise_prediction(whole, case, batch) -> None:
    unet = whole.image_decoder.unet
    _, features = whole.visual_tokenizer(case["image_tensors"])
    arguments = case["latents"], case["timesteps"], case["cond_tokens"]
    predicted = unet(*arguments, values=unet.project_values(features), visible=image_visible(batch, "previous"))
    assert_equal(predicted, case["eps"])
    plain = unet.host(*arguments, return_dict=False)[0]
    assert_equal(plain, case["eps_without_mmfs"])
    assert (predicted - plain).abs().max() > 0.01
