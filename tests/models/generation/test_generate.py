import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleaved
from models.denoising_options import Denoising
from models.generation.generated import Finished, Preview, Progress
from models.generation.torch_state import TorchGenerationState
from rows import BOI, EOS

FAST = {"num_inference_steps": 2, "guidance_scale": 2.0}


def image(value: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8))


def say(model: MMInterleaved, *tokens: int) -> None:
    """Make the model prefer `tokens`, the first most, whatever it reads."""
    head = model.language_model.host.get_output_embeddings()
    torch.nn.init.zeros_(head.weight)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    for rank, token in enumerate(tokens):
        head.bias.data[token] = 10.0 - rank


def limit_length(model: MMInterleaved, num_tokens: int) -> None:
    transformer = {**model.config.language_model.transformer, "max_position_embeddings": num_tokens}
    language_model = dataclasses.replace(model.config.language_model, transformer=transformer)
    model.config = dataclasses.replace(model.config, language_model=language_model)


def level_difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.array(one, dtype=int) - np.array(other, dtype=int)).max())


@pytest.mark.parametrize(
    "segments",
    [[], ["a"], [image(9)], ["a", image(9), "b"], [image(9), image(200), image(90), "b"]],
    ids=["nothing", "text", "image", "mixed", "three-images"],
)
def test_any_prompt_continues(model: MMInterleaved, segments: list) -> None:
    result = model.generate(segments, max_new_tokens=5, max_new_images=1, **FAST)
    assert all(isinstance(segment, str | Image.Image) for segment in result)
    assert sum(isinstance(segment, Image.Image) for segment in result) <= 1
    assert result.prompt == segments


def test_begin_of_image_calls_the_image_decoder_and_the_image_becomes_visible(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    result = model.generate(["a"], max_new_tokens=6, max_new_images=2, **FAST)
    assert [type(s) for s in result] == [Image.Image, Image.Image, str]
    assert len(result[2]) == 4
    assert result[0].size == (32, 32)
    # The second image was drawn looking at the first.
    state = TorchGenerationState(model)
    with torch.no_grad():
        state.read([[[1, *model.processor.encode_text("a"), BOI], model.processor.encode_image(result[0]), [BOI]]])
        *_, step = state.draw([0], [1], Denoising(**FAST))
        expected = model.processor.decode_image(model.image_decoder.decode(step.latents)[0])
    assert level_difference(expected, result[1]) <= 1


BATCH = [
    ["a"],
    [],
    ["one ", image(9), " two ", image(200), " three"],
    [image(90)],
    ["some longer text without an image"],
]


@pytest.mark.parametrize("mode", ["auto", "text", "image"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_document_does_not_depend_on_its_batch(model: MMInterleaved, mode: str, temperature: float) -> None:
    with torch.no_grad():  # random weights hardly ever say <BoI> or </s>: make these likely
        model.language_model.host.get_output_embeddings().weight[[BOI, EOS]] *= 60
    options = {"mode": mode, "max_new_tokens": 12, "max_new_images": 2, "temperature": temperature, **FAST}
    seeds = [3, 1, 4, 1, 5]
    together = model.generate(BATCH, seed=seeds, **options)
    kinds = set()
    for document, seed, result in zip(BATCH, seeds, together, strict=True):
        alone = model.generate(document, seed=seed, **options)
        assert [type(segment) for segment in result] == [type(segment) for segment in alone]
        assert result.finish_reason == alone.finish_reason
        for one, other in zip(result, alone, strict=True):
            assert one == other if isinstance(one, str) else level_difference(one, other) <= 1
        kinds.add((len(result), result.finish_reason))
    if mode == "auto":
        assert len(kinds) > 1, "the documents all went the same way, so that little was tested"


def test_nothing_is_encoded_or_projected_twice(model: MMInterleaved) -> None:
    """Of each image, read or drawn, there is one encoding, and one projection per synchronizer that needs it."""
    encoded: list[int] = []
    projected: dict[str, int] = {}
    embedded: list[int] = []
    model.visual_tokenizer.register_forward_hook(lambda _module, args, _out: encoded.append(len(args[0])))
    model.language_model.decoder.register_forward_hook(
        lambda _module, _args, kwargs, _out: embedded.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for name, module in model.named_modules():
        if name.endswith("mmfs.value_proj"):
            projected[name] = 0

            def count(_module: object, args: tuple, _out: object, name: str = name) -> None:
                projected[name] += len(args[0])

            module.register_forward_hook(count)
    say(model, BOI, 20)
    result = model.generate(["a", image(9), image(90)], max_new_tokens=9, max_new_images=2, **FAST)
    assert [type(segment) for segment in result] == [Image.Image, Image.Image, str]
    assert encoded == [2, 1, 1]  # the prompt's two together, then each drawn one
    in_language_model = [num for name, num in projected.items() if name.startswith("language_model")]
    in_image_decoder = [num for name, num in projected.items() if name.startswith("image_decoder")]
    assert set(in_language_model) == {4}
    assert set(in_image_decoder) == {3}  # nothing is drawn after the second image, so it is never looked at
    # The prompt, <BoI>, an image, <BoI>, an image, and the text but for its last token: each is read once.
    assert embedded == [1 + 1 + 3 + 3, 1, 2, 1, 2] + [1] * 6


def test_modes(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    text = model.generate(["a"], mode="text", max_new_tokens=3)
    assert text == [model.processor.decode_text([20] * 3)]
    assert text.finish_reason == "max_new_tokens"
    images = model.generate(["a"], mode="image", max_new_images=2, **FAST)
    assert [type(s) for s in images] == [Image.Image, Image.Image]
    assert images.finish_reason == "max_new_images"


def test_the_end_token_ends(model: MMInterleaved) -> None:
    say(model, EOS)
    result = model.generate(["a"], max_new_tokens=50)
    assert result == []
    assert result.finish_reason == "end"


def test_a_stop_text_ends(model: MMInterleaved) -> None:
    [token] = model.processor.encode_text("x")
    say(model, token)
    result = model.generate(["a"], max_new_tokens=50, stop="xxx")
    assert (result, result.finish_reason) == ([], "stop")
    result = model.generate(["a"], max_new_tokens=2, stop=["xxx", "y"])
    assert (result, result.finish_reason) == (["xx"], "max_new_tokens")


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
    close, other = (np.abs(draws[0].astype(int) - draw).max() for draw in draws[1:])
    assert close <= 1, "no more than a step of 8 bits, where a pixel lies between two"
    assert other > 10


def test_a_stream_gives_the_same_pieces(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    options = {"max_new_tokens": 4, "max_new_images": 1, **FAST}
    result = model.generate(["a"], **options)
    events = list(model.generate_stream(["a"], **options))
    assert [type(event) for event in events] == [Progress, Progress, Image.Image, str, str, str, Finished]
    assert events[:2] == [Progress(0, 1, 2), Progress(0, 2, 2)]
    assert "".join(events[3:6]) == result[1]
    assert events[6] == Finished(
        "max_new_tokens", num_cut=0, num_prompt_tokens=2, num_new_tokens=4, num_cached_tokens=0
    )
    numbered = list(model.generate_stream([["a"], ["b"]], **options))
    assert [number for number, _ in numbered] == [0, 1] * 7
    kinds = [Progress, Progress, Image.Image, str, str, str, Finished]
    assert [type(event) for _, event in numbered] == [kind for kind in kinds for _ in range(2)]


def test_documents_end_when_they_end(model: MMInterleaved) -> None:
    """Each with its own facts, which `generate` has too."""
    say(model, EOS)
    documents = [["a"], ["bc", image(9)]]
    stream = list(model.generate_stream(documents, max_new_tokens=3, **FAST))
    num_visual = model.config.visual_tokenizer.num_visual_tokens
    assert stream == [(0, Finished("end", 0, 1 + 1, 0, 0)), (1, Finished("end", 0, 1 + 2 + 1 + num_visual, 0, 0))]
    say(model, 20, EOS)
    stream = list(model.generate_stream(documents, mode="text", max_new_tokens=3, num_beams=2))
    results = model.generate(documents, mode="text", max_new_tokens=3, num_beams=2)
    for number, result in enumerate(results):
        of_it = [event for n, event in stream if n == number]
        assert of_it[:-1] == [result.text]
        assert of_it[-1] == Finished(
            result.finish_reason, 0, result.num_prompt_tokens, result.num_new_tokens, result.num_cached_tokens
        )
        assert (result.finish_reason, result.num_new_tokens) == ("max_new_tokens", 3)
    [finished] = model.generate_stream(["a"], max_new_tokens=0)
    assert finished == Finished("max_new_tokens", 0, 2, 0, 0)


def test_a_stream_shows_previews(model: MMInterleaved) -> None:
    options = {"mode": "image", "num_inference_steps": 5, "max_new_images": 1}
    events = list(model.generate_stream([["a"], ["b"]], preview_every=2, **options))
    steps = [(number, event.step) for number, event in events if isinstance(event, Progress)]
    assert steps == [(number, step) for step in range(1, 6) for number in range(2)]
    previews = [(number, event) for number, event in events if isinstance(event, Preview)]
    assert [(number, preview.done) for number, preview in previews] == [(0, 2), (1, 2), (0, 4), (1, 4)]
    images = [(number, event) for number, event in events if isinstance(event, Image.Image)]
    assert [number for number, _ in images] == [0, 1]
    assert [type(event) for _, event in events[-4:]] == [Image.Image, Image.Image, Finished, Finished]
    last = images[0][1]
    assert previews[2][1].image.size == last.size
    assert level_difference(previews[2][1].image, last) < level_difference(previews[0][1].image, last)
    with pytest.raises(ValueError, match="preview_every is -1"):
        model.generate_stream(["a"], preview_every=-1)


def test_progress_costs_no_decoding(model: MMInterleaved, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = model.image_decoder.decode
    monkeypatch.setattr(model.image_decoder, "decode", lambda latents: decoded.append(1) or decode(latents))
    events = list(model.generate_stream(["a"], mode="image", num_inference_steps=4))
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4]
    assert len(decoded) == 1


def test_a_stream_refuses_at_once_what_cannot_be_generated(model: MMInterleaved) -> None:
    limit_length(model, 8)
    with pytest.raises(ValueError, match="the language model reads 8"):
        model.generate_stream(["more than eight bytes"])
    with pytest.raises(TypeError, match="no option"):
        model.generate_stream(["a"], streamer=None)


def test_a_task_puts_the_document_into_its_prompt(model: MMInterleaved) -> None:
    say(model, BOI, 20)
    caption = model.generate([image(9)], task="caption", max_new_tokens=3)
    assert caption.prompt[1:] == [" a photo of"]
    assert caption == [model.processor.decode_text([20] * 3)]  # no image: a caption is text
    drawn = model.generate([[image(9), " a"], [image(8), " b"]], task="label_map", **FAST)
    assert [[type(segment) for segment in result] for result in drawn] == [[Image.Image]] * 2
    kept = model.generate([image(9), " a"], task="label_map", mode="text", max_new_tokens=1)
    assert [type(segment) for segment in kept] == [str]


def test_too_long_a_context_is_an_error_or_cut(model: MMInterleaved) -> None:
    say(model, 20)
    limit_length(model, 20)
    document = ["a" * 9, image(9), "bcd", image(90), "ef"]  # 1 + 9 + 3 + 3 + 3 + 2 tokens
    with pytest.raises(ValueError, match=r"Document 0 has 21 tokens; the language model reads 20, 1 less"):
        model.generate(document, mode="text")
    with pytest.raises(ValueError, match=r"Document 1 has 21 tokens; the language model reads 20, 1 less"):
        model.generate([["a"], ["a" * 17]], mode="text", max_new_tokens=6)
    cut = model.generate(document, mode="text", max_new_tokens=10, overflow="cut")
    assert cut.num_cut == 2  # 1 + 8 + 10 tokens are left
    assert (cut, cut.finish_reason) == (model.generate(document[2:], mode="text", max_new_tokens=10), "max_new_tokens")
    ends = model.generate(["a" * 17], mode="text", max_new_tokens=6, overflow="cut")
    assert (ends, ends.finish_reason) == ([model.processor.decode_text([20] * 3)], "length")
    with pytest.raises(ValueError, match="Document 0 has 31 tokens"):
        model.generate(["a" * 30], overflow="cut")


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ("a", {}, "documents is one str; expected a list"),
        ([3], {}, r"documents\[0\] is a int; expected str, PIL image"),
        ([["a"], [3]], {}, r"documents\[1\]\[0\] is a int; expected str, PIL image"),
        ([["a"], "b"], {}, "documents holds 1 lists and 1 segments; expected the segments of one document, or a list"),
        (["a"], {"mode": "both"}, "mode is 'both'; expected 'auto', 'text' or 'image'"),
        (["a"], {"overflow": "wrap"}, "overflow is 'wrap'; expected 'error' or 'cut'"),
        (["a"], {"max_new_tokens": -1}, "max_new_tokens is -1; expected a whole number of at least 0"),
        (["a"], {"top_p": 0.0}, "top_p is 0.0; expected a finite number of more than 0 and at most 1"),
        (["a"], {"repetition_penalty": 0.0}, "repetition_penalty is 0.0; expected a finite number of at least 1e-06"),
        (["a"], {"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9 and max_new_tokens 8"),
        (["a"], {"min_new_tokens": -1}, "min_new_tokens is -1; expected"),
        (["a"], {"stop": ["x", ""]}, "stop holds an empty text"),
        (["a"], {"seed": [1, 2]}, "There are 2 seeds for 1 documents; expected one each"),
        (["a"], {"scheduler": "euler"}, "scheduler is 'euler'"),
        (["a"], {"mode": "image", "max_new_images": 0}, "max_new_images is 0; allow at least one"),
    ],
)
def test_wrong_use_gets_a_sentence(model: MMInterleaved, documents: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(documents, **options)


def test_without_a_processor_the_way_out_is_said(model: MMInterleaved) -> None:
    model.processor = None
    with pytest.raises(ValueError, match=r"no processor.*from_pretrained"):
        model.generate(["a"])


def test_several_continuations_of_each_document(model: MMInterleaved) -> None:
    options = {"mode": "text", "do_sample": True, "max_new_tokens": 12}
    documents = [["ab"], ["cd", image(90)]]
    several = model.generate(documents, num_return_sequences=3, seed=[4, 5], **options)
    assert [one.prompt for one in several] == [document for document in documents for _ in range(3)]
    assert [several[0], several[3]] == model.generate(documents, seed=[4, 5], **options), "the first is the only one's"
    assert len({one.text for one in several[:3]}) == 3
    assert model.generate(documents[0], num_return_sequences=3, seed=4, **options) == several[:3]
    events = list(model.generate_stream(documents[0], num_return_sequences=3, seed=4, **options))
    assert ["".join(text for number, text in events if number == n and isinstance(text, str)) for n in range(3)] == [
        one.text for one in several[:3]
    ]
    drawn = model.generate(["ab"], mode="image", num_return_sequences=2, **FAST)
    assert np.asarray(drawn[0].images[0]).tolist() != np.asarray(drawn[1].images[0]).tolist()


def test_sampling_in_transformers_words(model: MMInterleaved) -> None:
    options = {"mode": "text", "max_new_tokens": 12}
    sampled = model.generate(["ab"], temperature=1.0, **options)
    assert model.generate(["ab"], do_sample=True, **options) == sampled
    assert model.generate(["ab"], do_sample=True, temperature=1.0, **options) == sampled
    likeliest = model.generate(["ab"], **options)
    assert likeliest != sampled
    assert model.generate(["ab"], do_sample=False, **options) == likeliest
    assert model.generate(["ab"], do_sample=False, temperature=0.0, **options) == likeliest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"do_sample": True, "temperature": 0.0},
            "do_sample is True and temperature is 0.0, which takes the likeliest",
        ),
        ({"do_sample": False, "temperature": 0.7}, "do_sample is False and temperature is 0.7, which samples"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0; expected a whole number from 1 to 1000"),
        ({"num_return_sequences": 2, "mode": "text"}, "nothing is random, so all would be equal. Set a temperature"),
        ({"num_return_sequences": 2, "mode": "text", "num_beams": 2}, "beam search returns its best text alone"),
    ],
)
def test_options_that_do_not_go_together(model: MMInterleaved, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(["a"], **options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("streamer", "no option 'streamer'. Expected generate_stream, which yields text and images"),
        ("max_length", "Expected max_new_tokens"),
        ("stopping_criteria", "Expected stop, or generate_stream"),
        ("max_new_token", "Expected max_new_tokens"),
        ("xyz", "no option 'xyz'. Expected one of mode, max_new_tokens"),
    ],
)
def test_options_of_other_libraries_are_told_ours(model: MMInterleaved, option: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.generate(["a"], **{option: None})
    with pytest.raises(TypeError, match=message):
        next(model.generate_stream(["a"], **{option: None}))
