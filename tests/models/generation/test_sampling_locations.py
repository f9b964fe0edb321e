"""What is recorded while a document is written and drawn rebuilds what MMFS returned there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mmfs import ms_deform_attn
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.denoising_options import Denoising
from models.generation.documents import pieces_of
from models.generation.generated import Finished
from models.generation.query_locations import QueryLocations
from models.generation.sampling_locations import SamplingLocations
from models.generation.torch_state import TorchGenerationState
from rows import BOI

FAST: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


DOCUMENTS = [
    ["first ", image(9), " second ", image(200), " third"],
    ["no image at all"],
    [image(30), image(31), image(32), " x"],
]


def varied(model: MMInterleaved) -> MMInterleaved:
    """Attention that differs from token to token, from image to image and from pixel to pixel."""
    for network in (model.language_model, model.image_decoder.unet):
        for synchronizer in network.synchronizers:
            layer = synchronizer.mmfs
            nn.init.normal_(layer.attention_weights.weight, std=0.3)
            nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
            nn.init.normal_(layer.age_embedding, std=1.0)
            if layer.null_value is not None:
                nn.init.normal_(layer.null_value)
    return model


def prefers(model: MMInterleaved, token: int, by: float) -> MMInterleaved:
    head = model.language_model.host.get_output_embeddings()
    head.bias = nn.Parameter(torch.zeros(head.out_features))
    head.bias.data[token] = by
    return model


@contextmanager
def outputs_of(synchronizers: nn.ModuleList) -> Iterator[list[list[Tensor]]]:
    """For each layer, what its op returned in each call, [B, Q, H*D]. Meanwhile, layers are not folded."""
    found: list[list[Tensor]] = [[] for _ in synchronizers]
    hooks = [
        synchronizer.mmfs.output_proj.register_forward_pre_hook(lambda _, inputs, own=own: own.append(inputs[0]))
        for synchronizer, own in zip(synchronizers, found, strict=True)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def rebuilt(looked: QueryLocations, number: int, synchronizer: nn.Module, values: Tensor) -> Tensor:
    """[H*D] from the locations and weights of one layer's query, and the values of a document's images [N, S, H, D]."""
    layer = synchronizer.mmfs
    null_value = torch.zeros(values.shape[2:]) if layer.null_value is None else layer.null_value
    out = looked.null_weights[number][:, None] * null_value
    for place, image_number in enumerate(looked.images):
        locations, weights = looked.sampling_locations[number][place], looked.attention_weights[number][place]
        value = values[image_number, None]
        sample = ms_deform_attn(
            value, layer.spatial_shapes, locations[None, None], weights[None, None], backend="reference"
        )
        out = out + sample.view(layer.num_heads, -1)
    return out.flatten()


@torch.no_grad()
def read_again(model: MMInterleaved, locations: SamplingLocations, segments: Sequence[Any]) -> list[int]:
    """Read the whole document at once; the columns of the queries that chose the written tokens."""
    assert model.processor is not None
    pieces: list[Any] = [[1]]
    for segment in segments:
        pieces += pieces_of(segment, model.processor, model.config)
    state = TorchGenerationState(model)
    columns, drawn = [], iter(locations.drawn)
    for token in locations.ids:
        columns.append(state.num_tokens(pieces) - 1)
        pieces.append([token])
        if token == BOI and (one := next(drawn, None)) is not None:
            pieces.append(model.processor.encode_image(one.image))
    state.read([pieces])
    return columns


@torch.no_grad()
def check_tokens(model: MMInterleaved, result: Any, segments: Sequence[Any]) -> int:
    """Compare with the op's outputs when all is read at once; the number of tokens that saw images."""
    locations, synchronizers = result.sampling_locations, model.language_model.synchronizers
    with outputs_of(synchronizers) as outputs:
        columns = read_again(model, locations, segments)
    values = values_of(model, locations.images, model.language_model)
    for index, column in enumerate(columns):
        looked = locations.of_token(index)
        for number, synchronizer in enumerate(synchronizers):
            [expected] = outputs[number]
            actual = rebuilt(looked, number, synchronizer, values[number])
            torch.testing.assert_close(actual, expected[0, column], rtol=1e-4, atol=2e-5)
    return sum(bool(locations.of_token(index).images) for index in range(len(columns)))


@torch.no_grad()
def values_of(model: MMInterleaved, images: Sequence[Image.Image], network: Any) -> list[Tensor]:
    """What a network samples of these images, each by itself."""
    assert model.processor is not None
    features = [model.visual_tokenizer(model.processor.encode_image(one)[None])[1] for one in images]
    if not features:
        num_pixels = sum(h * w for h, w in model.visual_tokenizer.spatial_shapes)
        features = [torch.zeros(0, num_pixels, model.visual_tokenizer.dim)]
    return network.project_values(torch.cat(features))


def configured(**sync: Any) -> MMInterleavedConfig:
    config = MMInterleavedConfig.tiny()
    language_model, image_decoder = (
        dataclasses.replace(one, mmfs=dataclasses.replace(one.mmfs, **sync))
        for one in (config.language_model, config.image_decoder)
    )
    return dataclasses.replace(config, language_model=language_model, image_decoder=image_decoder)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("sync", [{}, {"image_positions": "index", "null": False}], ids=["release", "paper"])
def test_tokens_of_a_batch_rebuild_the_op(
    processor: MMInterleavedProcessor, folded: bool, sync: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    model = prefers(varied(MMInterleaved(configured(**sync), processor).eval()), BOI, 4.0)
    options = {"max_new_tokens": 12, "max_new_images": 2, "temperature": 1.0, "seed": 3, **FAST}
    with outputs_of(model.language_model.synchronizers) as outputs:
        if not folded:
            results = model.generate(DOCUMENTS, sampling_locations=True, **options)
            assert outputs[0], "the layers were folded"
    if folded:
        results = model.generate(DOCUMENTS, sampling_locations=True, **options)
    num_checked = [check_tokens(model, result, document) for result, document in zip(results, DOCUMENTS, strict=True)]
    assert sum(num_checked) > 20
    assert sum(len(result.images) for result in results) > 1, "that tokens see drawn images is compared too"
    for result in results:
        assert "".join(token.text for token in result.sampling_locations.tokens) == result.text


@pytest.mark.parametrize("placement", ["up", "skips"])
@pytest.mark.parametrize("context_images", ["all", "previous"])
def test_pixels_of_a_drawn_image_rebuild_the_op(
    processor: MMInterleavedProcessor, placement: str, context_images: str
) -> None:
    torch.manual_seed(1)
    config = MMInterleavedConfig.tiny()
    decoder = dataclasses.replace(config.image_decoder, mmfs_placement=placement, context_images=context_images)
    model = varied(MMInterleaved(dataclasses.replace(config, image_decoder=decoder), processor).eval())
    synchronizers = model.image_decoder.unet.synchronizers
    for synchronizer in synchronizers:
        nn.init.normal_(synchronizer.conv.weight, std=0.3)
    steps = {"sampling_locations_steps": [1, -1]}
    results = model.generate(
        DOCUMENTS[:2],
        mode="image",
        max_new_images=2,
        image_guidance_scale=1.5,
        sampling_locations=True,
        **steps,
        **FAST,
    )
    for result, document in zip(results, DOCUMENTS, strict=False):
        locations = result.sampling_locations
        state = TorchGenerationState(model)
        pieces = [piece for segment in document for piece in pieces_of(segment, processor, config)]
        denoising = Denoising(**FAST, image_guidance_scale=1.5)
        with outputs_of(synchronizers) as outputs, torch.no_grad():
            state.read([[[1], *pieces, [BOI], processor.encode_image(result.images[0]), [BOI]]])
            list(state.draw([0], [1], denoising))
        values = values_of(model, locations.images, model.image_decoder.unet)
        for step in (1, 3):
            for x, y in ((0.02, 0.01), (0.3, 0.8), (0.97, 0.99)):
                looked = locations.of_pixel(1, x, y, step)
                expected_images = range(len(locations.given) + 1)
                assert looked.images == tuple(expected_images if context_images == "all" else expected_images[-1:])
                for number, synchronizer in enumerate(synchronizers):
                    output = outputs[number][step - 1][-1]  # with all conditions
                    side = int(len(output) ** 0.5)
                    pixel = int(y * side) * side + int(x * side)
                    actual = rebuilt(looked, number, synchronizer, values[number])
                    torch.testing.assert_close(actual, output[pixel], rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match="step is 2; kept are 1, 3"):
            locations.of_pixel(1, 0.5, 0.5, step=2)


def test_tokens_of_beams_rebuild_the_op(model: MMInterleaved) -> None:
    varied(model)
    options = {"mode": "text", "max_new_tokens": 6, "sampling_locations": True}
    results = model.generate(DOCUMENTS, num_beams=3, **options)
    for result, document in zip(results, DOCUMENTS, strict=True):
        assert len(result.sampling_locations.ids) == len(result.sampling_locations.queries) > 0
        check_tokens(model, result, document)


def test_recording_changes_nothing_that_is_generated(model: MMInterleaved) -> None:
    options = {"max_new_tokens": 6, "max_new_images": 1, "temperature": 1.0, **FAST}
    without = model.generate(DOCUMENTS[0], **options)
    recorded = model.generate(DOCUMENTS[0], sampling_locations=True, **options)
    assert without.text == recorded.text
    assert [list(one.getdata()) for one in without.images] == [list(one.getdata()) for one in recorded.images]
    assert without.sampling_locations is None


def test_texts_of_tokens_are_the_text(model: MMInterleaved) -> None:
    """Also where a character has several tokens, and where a stop text was left out."""
    assert model.processor is not None
    ids = model.processor.encode_text("né 火 <stop> more")
    locations = SamplingLocations(model.config, model.processor, ["a", image(1)], ["<stop>"])
    locations.add_tokens([*ids, BOI, *ids[:2]], [None] * (len(ids) + 3))
    texts = [token.text for token in locations.tokens]
    assert texts[:8] == ["n", "", "é", " ", "", "", "火", " "]
    assert texts[8:-3] == [""] * len("<stop> more")
    assert texts[-3:] == ["", "n", "\ufffd"]
    assert [token.image for token in locations.tokens if token.image is not None] == [1]


def test_a_stream_ends_with_what_was_recorded(model: MMInterleaved) -> None:
    varied(model)
    *_, finished = model.generate_stream(DOCUMENTS[0], mode="text", max_new_tokens=4, sampling_locations=True)
    assert isinstance(finished, Finished)
    result = model.generate(DOCUMENTS[0], mode="text", max_new_tokens=4, sampling_locations=True)
    looked, expected = finished.sampling_locations.of_token(2), result.sampling_locations.of_token(2)
    torch.testing.assert_close(looked.attention_weights, expected.attention_weights)


@torch.no_grad()
def test_documents_that_join_are_recorded_too(model: MMInterleaved) -> None:
    varied(model)
    states = [TorchGenerationState(model) for _ in range(2)]
    for state, seed in zip(states, (1, 2), strict=True):
        state.read([[[1, BOI], model.processor.encode_image(image(seed)), [9, 10]]])
    alone = states[1].copied([0])
    states[1].record_sampling()
    states[0].join(states[1])
    states[0].read([[[7]], [[8]]])
    alone.record_sampling()
    alone.read([[[8]]])
    one, other = (
        state.queries[-1].arguments[1].attention_logits[state.queries[-1].row] for state in (states[0], alone)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_not_there_is_refused(model: MMInterleaved) -> None:
    result = model.generate(DOCUMENTS[0], mode="text", max_new_tokens=3, sampling_locations=True)
    locations = result.sampling_locations
    assert locations is not None
    with pytest.raises(ValueError, match="index is 3; 3 tokens were written"):
        locations.of_token(3)
    with pytest.raises(ValueError, match="image is 0; 0 were drawn"):
        locations.of_pixel(0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"the text has .* characters"):
        locations.of_text(500, 501)
    looked = locations.of_token(0)
    for wrong in ({"layer": 2}, {"head": -1}, {"level": 9}):
        [(name, number)] = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is {number}; there are"):
            looked.share(0, **wrong)
    with pytest.raises(ValueError, match="image is 2; the document has 2"):
        looked.heat_map(2, (8, 8))
    blind = MMInterleaved(MMInterleavedConfig.tiny().without_mmfs(), model.processor)
    with pytest.raises(ValueError, match="no MMFS layers"):
        blind.generate(["a"], sampling_locations=True)
    for steps, message in ([0], "holds 0"), ([4], "from -3 to 3"), ("last", "a list of steps"):
        with pytest.raises(ValueError, match=message):
            model.generate(["a"], sampling_locations=True, sampling_locations_steps=steps, **FAST)
    with pytest.raises(ValueError, match="expected True or False"):
        model.generate(["a"], sampling_locations="yes")


def test_heat_maps_share_out_the_attention(model: MMInterleaved) -> None:
    varied(model)
    result = model.generate(DOCUMENTS[0], mode="text", max_new_tokens=2, sampling_locations=True)
    looked = result.sampling_locations.of_token(1)
    nowhere = float(torch.stack(looked.null_weights).mean())
    assert sum(looked.share(number) for number in looked.images) + nowhere == pytest.approx(1)
    levels = [looked.share(0, level=level) for level in range(looked.attention_weights[0].shape[2])]
    assert sum(levels) == pytest.approx(looked.share(0))
    heads = [looked.share(0, layer=1, head=head) for head in range(2)]
    assert sum(heads) / 2 == pytest.approx(looked.share(0, layer=1))
    map_ = looked.heat_map(0, (12, 20))
    assert map_.shape == (12, 20)
    inside = torch.cat([one[0].reshape(-1, 2) for one in looked.sampling_locations])
    weights = torch.cat([one[0].flatten() for one in looked.attention_weights]) / (2 * 2)
    share_inside = weights[((inside >= 0) & (inside <= 1)).all(-1)].sum()
    assert float(map_.sum()) == pytest.approx(float(share_inside), rel=1e-5)
    word = result.sampling_locations.of_text(0, len(result.text))
    mean = sum(result.sampling_locations.of_token(index).share(1) for index in range(2)) / 2
    assert word.share(1) == pytest.approx(mean)
    assert looked.overlay(0).size == (224, 224)
