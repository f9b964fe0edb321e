import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleaved
from models.generation import Reading
from rows import BOI, EOS, pack_rows

FAST = {"num_steps": 2, "guidance_scale": 2.0}


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8))


def say(model: MMInterleaved, *tokens: int) -> None:
    """Make the model prefer `tokens`, the first most, whatever it reads."""
    head = model.language_model.host.get_output_embeddings()
    torch.nn.init.zeros_(head.weight)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    for rank, token in enumerate(tokens):
        head.bias.data[token] = 10.0 - rank


def test_reading_in_pieces_equals_the_training_forward(model: MMInterleaved) -> None:
    """Prefill piece by piece, with caches, gives the logits of one packed row."""
    batch = pack_rows([[[9, "image", 10, 11, "image", 12]]])
    reading = Reading(model)
    with torch.no_grad():
        reading.read_tokens([1, 9, BOI])
        reading.read_image(batch.pixel_values[0])
        reading.read_tokens([10, 11])
        reading.read_tokens([BOI])
        reading.read_image(batch.pixel_values[1])
        reading.read_tokens([12])
        hidden: list[torch.Tensor] = []
        hook = model.language_model.register_forward_hook(lambda _module, _args, out: hidden.append(out))
        model(batch)
        hook.remove()
    pieces = torch.cat(reading.hidden, dim=1)
    torch.testing.assert_close(pieces, hidden[0][:, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "segments",
    [[], ["a"], [picture(9)], ["a", picture(9), "b"], [picture(9), picture(200), picture(90), "b"]],
    ids=["nothing", "text", "image", "mixed", "three-images"],
)
def test_any_prompt_continues(model: MMInterleaved, segments: list) -> None:
    result = model.generate(segments, max_new_tokens=5, max_images=1, **FAST)
    assert all(isinstance(segment, str | Image.Image) for segment in result)
    assert sum(isinstance(segment, Image.Image) for segment in result) <= 1


def test_begin_of_image_calls_the_image_decoder_and_the_image_becomes_visible(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    result = model.generate(["a"], max_new_tokens=6, max_images=2, **FAST)
    assert [type(s) for s in result] == [Image.Image, Image.Image, str]
    assert len(result[2]) == 4
    assert result[0].size == (32, 32)
    # The second image was drawn looking at the first.
    reading = Reading(model)
    with torch.no_grad():
        reading.read_tokens([1, *model.processor.encode_text("a"), BOI])
        reading.read_image(model.processor.encode_image(result[0]))
        reading.read_tokens([BOI])
        expected = model.processor.decode_image(reading.draw(seed=1, **FAST))
    assert np.abs(np.array(expected, dtype=int) - np.array(result[1], dtype=int)).max() <= 1


def test_modes(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    assert model.generate(["a"], mode="text", max_new_tokens=3) == [model.processor.decode_text([20] * 3)]
    images = model.generate(["a"], mode="image", max_images=2, **FAST)
    assert [type(s) for s in images] == [Image.Image, Image.Image]


def test_the_end_token_ends(model: MMInterleaved) -> None:
    say(model, EOS)
    assert model.generate(["a"], max_new_tokens=50) == []


def test_special_tokens_are_never_written(model: MMInterleaved) -> None:
    say(model, 4, 0, 1, 20)
    assert model.generate([], max_new_tokens=2) == [model.processor.decode_text([20, 20])]


def test_seeds_make_it_reproducible(model: MMInterleaved) -> None:
    def run(seed: int, **options: object) -> list:
        return model.generate(["a"], max_new_tokens=8, mode="text", temperature=1.0, seed=seed, **options)

    assert run(3) == run(3)
    assert run(3) != run(4)
    assert run(3, top_p=1e-6) == model.generate(["a"], max_new_tokens=8, mode="text")  # only the likeliest is left
    draws = [np.array(model.generate(["a"], mode="image", seed=s, **FAST)[0]) for s in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_images_matter_and_so_does_their_order(model: MMInterleaved) -> None:
    with torch.no_grad():
        logits = []
        for order in ((20, 200), (200, 20), (20, 20)):
            reading = Reading(model)
            for value in order:
                reading.read_tokens([BOI])
                reading.read_image(model.processor.encode_image(picture(value)))
            reading.read_tokens([9])
            logits.append(reading.logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-5
    assert (logits[0] - logits[2]).abs().max() > 1e-5


def test_a_stream_gives_the_same_pieces(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    pieces = list(model.generate_stream(["a"], max_new_tokens=4, max_images=1, **FAST))
    assert [type(p) for p in pieces] == [Image.Image, str, str, str]
    assert "".join(pieces[1:]) == model.generate(["a"], max_new_tokens=4, max_images=1, **FAST)[1]


def test_a_character_spread_over_tokens_is_shown_when_it_is_whole(model: MMInterleaved) -> None:
    snail = model.processor.encode_text("\N{SNAIL}")
    assert len(snail) == 4
    from models.generation import _TextWriter

    writer = _TextWriter(model.processor)
    assert [writer.add(token) for token in snail] == ["", "", "", "\N{SNAIL}"]
    assert writer.flush() == ""


@pytest.mark.parametrize(
    ("segments", "options", "message"),
    [
        ("a", {}, "segments is one str; expected a list"),
        ([3], {}, r"segments\[0\] is a int; expected str, PIL image"),
        (["a"], {"mode": "both"}, "mode is 'both'; expected 'auto', 'text' or 'image'"),
        (["a"], {"max_new_tokens": -1}, "max_new_tokens is -1; expected at least 0"),
        (["a"], {"top_p": 0.0}, "top_p is 0.0; expected a probability"),
        (["a"], {"mode": "image", "max_images": 0}, "max_images is 0; allow at least one"),
        (["a" * 600], {}, "The sequence has .* tokens; the language model reads 512"),
    ],
)
def test_wrong_use_gets_a_sentence(model: MMInterleaved, segments: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(segments, **options)


def test_without_a_processor_the_way_out_is_said(model: MMInterleaved) -> None:
    model.processor = None
    with pytest.raises(ValueError, match=r"no processor.*from_pretrained"):
        model.generate(["a"])
