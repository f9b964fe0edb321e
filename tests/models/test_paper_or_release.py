"""Each choice in which the paper and the released code differ: both settings do what they say."""

from dataclasses import replace

import pytest
import torch

from models import MMInterleaved, MMInterleavedConfig
from models.component_configs import QFormerConfig
from models.image_decoders.condition import Condition
from models.language_model import LanguageModel
from models.position import resized_sincos_2d, sincos_2d
from models.qformer import QFormer
from models.resampler import Resampler
from models.sequence import attention_mask, position_ids
from models.synchronized_unet import UNetSynchronizer
from models.visual_tokenizer import VisualTokenizer
from models.vit_adapter import Shapes
from numerics import FLOAT32_ROUNDING, assert_equal_up_to_rounding
from rows import pack_rows

TINY = MMInterleavedConfig.tiny()
SHAPES: Shapes = ((8, 8), (4, 4), (2, 2), (1, 1))
ROWS = [[[10, "image", 11, "draw", 12], [13, "draw", 14, "draw"]]]


def language_model(**options) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(replace(TINY.language_model, **options), feature_dim=16, spatial_shapes=SHAPES).eval()
    for synchronizer in model.synchronizers:
        torch.nn.init.normal_(synchronizer.mmfs.sampling_offsets.weight, std=0.1)
        torch.nn.init.normal_(synchronizer.mmfs.attention_weights.weight, std=0.3)
        torch.nn.init.normal_(synchronizer.mmfs.age_embedding)
    return model


@torch.no_grad()
def look(model: LanguageModel, features: torch.Tensor, visible: tuple[int, int]) -> torch.Tensor:
    """What one token becomes that may see these images."""
    return model(
        torch.ones(1, 1, 32),
        position_ids=torch.zeros(1, 1, dtype=torch.int64),
        mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
        values=model.project_values(features),
        visible=torch.tensor([[visible]]),
    )


def test_d1_null_slot() -> None:
    """Release: some attention goes nowhere. Paper: all of it goes to images, so equal images leave no choice."""
    mmfs = TINY.language_model.mmfs
    for null, alike in ((True, False), (False, True)):
        model = language_model(mmfs=replace(mmfs, null=null))
        for synchronizer in model.synchronizers:
            torch.nn.init.zeros_(synchronizer.mmfs.sampling_offsets.weight)  # the centre: never outside the image
            torch.nn.init.zeros_(synchronizer.mmfs.sampling_offsets.bias)
        flat = torch.randn(1, 1, 16).expand(3, 85, 16)
        few, many = look(model, flat, (0, 1)), look(model, flat, (0, 3))
        # Level (1, 1) has its centre in a pixel, (4, 4) between pixels: all inside, all the same value.
        assert torch.allclose(few, many, atol=1e-5) == alike


def test_d2_what_position_embeddings_count() -> None:
    """Release, "age": back from the newest image. Paper, "index": on from the first visible one."""
    mmfs = replace(TINY.language_model.mmfs, max_age=3)
    ages = language_model(mmfs=mmfs)
    indices = language_model(mmfs=replace(mmfs, image_positions="index"))
    for synchronizer in indices.synchronizers:
        synchronizer.mmfs.age_embedding.data = synchronizer.mmfs.age_embedding.data.flip(0)
    features = torch.randn(4, 85, 16)
    # With three images and three rows, the oldest has the last row or the first: the turned table makes up for it.
    torch.testing.assert_close(look(indices, features, (1, 4)), look(ages, features, (1, 4)))
    # Of two images, the newer has row 0 or row 1, which in the turned table is the same row 1 as the older's age.
    assert (look(indices, features, (1, 3)) - look(ages, features, (1, 3))).abs().max() > 1e-4
    # The first image keeps its row when others come; its age does not.
    for model, kept in ((ages, False), (indices, True)):
        rows = [_rows_of_first_image(model, features, last) for last in (2, 3)]
        assert (rows[0] == rows[1]) == kept


@torch.no_grad()
def _rows_of_first_image(model: LanguageModel, features: torch.Tensor, last: int) -> set[int]:
    """Rows of the position embeddings that matter to what image 1 contributes, seen with those up to `last`."""
    synchronizer = model.synchronizers[0]
    values = synchronizer.project_values(features[:, model.pixels])
    values[[0, 2, 3]] = 0
    bound = synchronizer.bind(values, torch.tensor([[[1, last]]]))
    first, end = bound.visible[0, 0].tolist()
    bank = bound.values.abs().sum((1, 2, 3))
    return {end - 1 - image for image in range(first, end) if bank[image] > 0}  # row = age - 1


@torch.no_grad()
def test_d5_what_an_offset_counts() -> None:
    """Release, "cell": 16ths of the image, or pixels of the U-Net's map. Paper, "image": whole images."""
    features = torch.randn(2, 85, 16)
    mmfs = replace(TINY.language_model.mmfs, offset_unit="image")
    cells, images = language_model(), language_model(mmfs=mmfs)
    for ours, theirs in zip(cells.synchronizers, images.synchronizers, strict=True):
        torch.testing.assert_close(
            ours.mmfs.sampling_offsets.bias, 16 * theirs.mmfs.sampling_offsets.bias
        )  # same start
    assert (look(cells, features, (0, 2)) - look(images, features, (0, 2))).abs().max() > 1e-3  # weights count 16 fold
    for synchronizer in images.synchronizers:
        synchronizer.mmfs.sampling_offsets.weight /= 16
    torch.testing.assert_close(look(cells, features, (0, 2)), look(images, features, (0, 2)))

    torch.manual_seed(0)
    ours, theirs = (
        UNetSynchronizer(8, 16, SHAPES, replace(TINY.image_decoder.mmfs, offset_unit=unit))
        for unit in ("cell", "image")
    )
    torch.nn.init.normal_(ours.conv.weight)
    theirs.load_state_dict(ours.state_dict())
    cell = torch.tensor([8.0, 4.0]).repeat(len(ours.mmfs.sampling_offsets.bias) // 2)  # of a map of 4 x 8, as (x, y)
    theirs.mmfs.sampling_offsets.bias /= cell
    theirs.mmfs.sampling_offsets.weight /= cell[:, None]
    map_ = torch.randn(1, 8, 4, 8)
    found, expected = (
        synchronizer.bind(synchronizer.project_values(features), torch.tensor([[0, 2]]))(map_)
        for synchronizer in (ours, theirs)
    )
    torch.testing.assert_close(found, expected)
    assert (found - map_).abs().max() > 1e-3


def test_d6_level_sizes() -> None:
    """Paper: 1/4 to 1/32 of the image. Release: of the image resized to 16 pixels a patch."""
    clip = {**TINY.visual_tokenizer.vision_encoder, "image_size": 28, "patch_size": 14}
    for scale, sides in ((14, (7, 4, 2, 1)), (16, (8, 4, 2, 1))):
        tokenizer = VisualTokenizer(replace(TINY.visual_tokenizer, vision_encoder=clip, prior_scale=scale), 32)
        assert tokenizer.spatial_shapes == tuple((side, side) for side in sides)
        _, features = tokenizer(torch.rand(2, 3, 28, 28))
        assert features.shape == (2, sum(side * side for side in sides), 16)


@pytest.mark.parametrize("part", ["visual_tokenizer", "image_decoder"])
def test_d7_resampler(part: str) -> None:
    """Paper: Perceiver. Release: Q-Former."""
    for qformer, kind in ((None, Resampler), (QFormerConfig(ffn_dim=24, qk_norm=True), QFormer)):
        config = replace(TINY, **{part: replace(getattr(TINY, part), qformer=qformer, resampler_layers=4)})
        model = MMInterleaved(config)
        resampler = {"visual_tokenizer": model.visual_tokenizer, "image_decoder": model.image_decoder}[part].resampler
        assert type(resampler) is kind
        assert len(resampler.layers) == 4
        assert model(pack_rows(ROWS)).loss.isfinite()
    assert MMInterleavedConfig.from_dict(config.to_dict()) == MMInterleavedConfig.from_dict(
        MMInterleavedConfig.from_dict(config.to_dict()).to_dict()
    )
    assert getattr(MMInterleavedConfig.from_dict(config.to_dict()), part).qformer == qformer


@torch.no_grad()
@pytest.mark.parametrize("part", ["visual_tokenizer", "image_decoder"])
def test_d7_dropout_of_the_qformer(part: str) -> None:
    """Release: BERT's 0.1, in training. Paper: it speaks of none."""
    assert getattr(MMInterleavedConfig.released_13b(), part).qformer.dropout == 0.1
    for dropout in (0.0, 0.1):
        qformer = QFormerConfig(ffn_dim=24, dropout=dropout)
        config = replace(TINY, **{part: replace(getattr(TINY, part), qformer=qformer)})
        config = replace(config, image_decoder=replace(config.image_decoder, text_drop=0.0))
        torch.manual_seed(0)
        model, batch = MMInterleaved(config), pack_rows(ROWS)
        losses = [float(model.train()(batch).loss) for _ in range(2)] + [float(model.eval()(batch).loss) for _ in "12"]
        same = pytest.approx(losses[1], rel=FLOAT32_ROUNDING)
        assert (losses[0] == same) == (dropout == 0)
        assert losses[2] == pytest.approx(losses[3], rel=FLOAT32_ROUNDING)


def test_d7_positions_of_the_resamplers_inputs() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    plain = VisualTokenizer(TINY.visual_tokenizer, 32)
    projected = VisualTokenizer(replace(TINY.visual_tokenizer, resampler_input="projected"), 32)
    new = projected.state_dict().keys() - plain.state_dict().keys()
    assert {name.split(".")[0] for name in new} == {"hidden_proj", "input_norm"}
    assert projected(pixels)[0].shape == plain(pixels)[0].shape


def test_d8_which_layers_look() -> None:
    """Release: layer 0 and every n-th after it. The other reading of the paper: after every n layers."""
    transformer = {**TINY.language_model.transformer, "num_hidden_layers": 6}
    for first, every, layers in ((0, 3, [0, 3]), (2, 3, [2, 5])):
        model = LanguageModel(
            replace(TINY.language_model, transformer=transformer, mmfs_every=every, mmfs_first=first),
            feature_dim=16,
            spatial_shapes=SHAPES,
        )
        given = [i for i, layer in enumerate(model.decoder.layers) if layer.synchronizer_index is not None]
        assert given == layers


@torch.no_grad()
def test_d10_a_head_of_their_own_for_new_tokens() -> None:
    plain, extended = language_model(), language_model(new_tokens=2)
    hidden = torch.randn(3, 32)
    extended.host.lm_head.weight.copy_(plain.host.lm_head.weight)
    extended.host.lm_head.weight[-2:] = 0
    before = extended.logits(hidden)
    torch.testing.assert_close(before[:, :-2], plain.logits(hidden)[:, :-2])
    assert before[:, -2:].eq(-5).all()
    torch.nn.init.normal_(extended.new_token_head.weight)
    after = extended.logits(hidden)
    assert_equal_up_to_rounding(after[:, :-2], before[:, :-2])
    assert after[:, -2:].std() > 0.1


def test_packing() -> None:
    """Default: documents of a row do not see each other, positions restart. Release: neither."""
    batch = pack_rows(ROWS)
    length = batch.input_ids.shape[1]
    causal = attention_mask(batch, "causal")
    assert torch.equal(causal[0, 0], torch.ones(length, length, dtype=torch.bool).tril())
    assert (causal & ~attention_mask(batch)).any()
    assert torch.equal(position_ids(batch, "document"), batch.position_ids)
    assert torch.equal(position_ids(batch, "causal"), torch.arange(length).expand_as(batch.input_ids))

    losses = {}
    for packing in ("document", "causal"):
        torch.manual_seed(0)
        model = MMInterleaved(replace(TINY, language_model=replace(TINY.language_model, packing=packing))).eval()
        losses[packing] = float(model(batch).loss_text.detach())
    assert abs(losses["document"] - losses["causal"]) > 1e-4


def test_d11_positions_of_maps() -> None:
    """Release: one table, resized. Otherwise: waves at each pixel's own place. At the table's size, the same."""
    torch.testing.assert_close(resized_sincos_2d(4, 4, 16, table=(4, 4)), sincos_2d(4, 4, 16))
    fine, exact = resized_sincos_2d(8, 8, 16, table=(4, 4)), sincos_2d(8, 8, 16, grid=(4, 4))
    assert 0.05 < (fine - exact).abs().max() < 1
    shapes = {}
    for table in (False, True):
        torch.manual_seed(0)
        tokenizer = VisualTokenizer(replace(TINY.visual_tokenizer, position_table=table), 32).eval()
        shapes[table] = tokenizer(torch.full((1, 3, 32, 32), 0.5))
    torch.testing.assert_close(shapes[True][0], shapes[False][0])  # the patch grid is the table's
    assert (shapes[True][1] - shapes[False][1]).abs().max() > 0.05


@torch.no_grad()
def test_d12_dropped_images() -> None:
    """Paper and release drop text only. With image_drop, some training images are drawn without a look at others."""
    losses = {}
    keys = torch.arange(6)
    for drop in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        config = replace(TINY.image_decoder, image_drop=drop, text_drop=0.0)
        decoder = MMInterleaved(replace(TINY, image_decoder=config)).image_decoder.train()
        for synchronizer in decoder.unet.synchronizers:
            torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
        generator = torch.Generator().manual_seed(1)
        losses[drop] = decoder.loss(
            torch.rand(6, 3, 32, 32, generator=generator),
            Condition(torch.randn(6, 3, 16, generator=generator)),
            values=decoder.unet.project_values(torch.randn(2, 340, 16, generator=generator)),
            visible=torch.tensor([[0, 2]]).expand(6, 2),
            keys=keys,
        )
        kept = decoder._keeps_images(torch.arange(400)).float().mean()
        assert abs(1 - drop - kept) < 0.08
    sees, blind = losses[0.0], losses[1.0]
    assert ((sees - blind).abs() > 1e-6).all()
    half = MMInterleaved(replace(TINY, image_decoder=replace(TINY.image_decoder, image_drop=0.5))).image_decoder
    torch.testing.assert_close(losses[0.5], torch.where(half._keeps_images(keys), sees, blind))
