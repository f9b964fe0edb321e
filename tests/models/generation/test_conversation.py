import collections
import dataclasses
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import MMInterleaved
from models.generation.conversation import Conversation
from models.generation.documents import PromptSegment
from models.generation.generated import Finished, Generated
from models.generation.read_document import num_equal, pieces_of_units, units_of
from rows import BOI

DRAWING = {"num_inference_steps": 2, "guidance_scale": 2.0}
WORDS = {"mode": "text", "max_new_tokens": 5, "temperature": 1.0}


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture
def model(model: MMInterleaved) -> MMInterleaved:
    """Its words depend on the images that it sees, and it draws now and then."""
    for synchronizer in model.language_model.synchronizers:
        torch.nn.init.constant_(synchronizer.gate, 3.0)
        torch.nn.init.normal_(synchronizer.mmfs.output_proj.weight)
    head = model.language_model.host.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.full((head.out_features,), -1000.0))
    with torch.no_grad():
        head.weight.mul_(6)
        head.bias[model.processor.encode_text("abcdefghijklmnopqrstuvwxyz é")] = 0.0
        head.bias[BOI] = 6.0
    return model


def assert_equal(found: Generated, expected: Generated) -> None:
    assert [type(segment) for segment in found] == [type(segment) for segment in expected]
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, Image.Image):
            difference = np.abs(np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)).max()
            assert difference <= 1, "a wrong image is off by tens"
        else:
            assert ours == theirs
    for fact in ("finish_reason", "num_cut", "num_prompt_tokens", "num_new_tokens"):
        assert getattr(found, fact) == getattr(expected, fact)


def go_on(conversation: Conversation, **options: Any) -> Generated:
    """The next turn, which is that of the whole document."""
    before = conversation.segments
    expected = conversation.model.generate(before, **options)
    found = conversation.generate(**options)
    assert_equal(found, expected)
    assert conversation.segments == [*before, *found]
    assert found.prompt == before
    assert_kept_as_read_again(conversation)
    return found


@torch.no_grad()
def assert_kept_as_read_again(conversation: Conversation) -> None:
    """What the state holds is what a new one holds that has read the same."""
    state, again = conversation._read.state, conversation.model.begin_generation(1)
    again.read([pieces_of_units(conversation._read.units)])
    assert state.lengths == again.lengths
    torch.testing.assert_close(state.states(0), again.states(0), rtol=1e-3, atol=1e-3)
    for kept, expected in ((state.seen, again.seen), (state.drawn_from, again.drawn_from)):
        assert kept.range_of(0) == expected.range_of(0)
        torch.testing.assert_close(kept.values(), expected.values(), rtol=1e-3, atol=1e-3)
    if conversation._read.knows_next:
        torch.testing.assert_close(state.logits, again.logits, rtol=1e-3, atol=1e-3)


@contextmanager
def counting(model: MMInterleaved) -> Iterator[list[int]]:
    """Tokens that the language model reads, and images that are encoded."""
    num = [0, 0]

    def count_tokens(_module: object, _args: object, named: dict[str, Any]) -> None:
        num[0] += named["inputs_embeds"].shape[1]

    def count_images(_module: object, args: tuple[torch.Tensor]) -> None:
        num[1] += len(args[0])

    hooks = [
        model.language_model.decoder.register_forward_pre_hook(count_tokens, with_kwargs=True),
        model.visual_tokenizer.register_forward_pre_hook(count_images),
    ]
    yield num
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({**WORDS, "temperature": 0}, {str}),
        ({**WORDS, "repetition_penalty": 1.5}, {str}),
        ({"max_new_tokens": 5, "max_new_images": 2, "temperature": 1.0, **DRAWING}, {str, Image.Image}),
        ({"mode": "image", "max_new_images": 2, **DRAWING}, {Image.Image}),
        ({**WORDS, "temperature": 0, "num_beams": 3}, {str}),
        ({**WORDS, "overflow": "cut"}, {str}),
        ({**WORDS, "max_new_tokens": 0}, set()),
    ],
    ids=["text", "sampled", "interleaved", "images", "beams", "cut-if-too-long", "nothing"],
)
def test_every_turn_is_that_of_the_whole_document(
    model: MMInterleaved, options: dict[str, Any], kinds: set[type]
) -> None:
    conversation = model.open_conversation([image(0), "what is this"])
    num_read, num_kinds = 0, set()
    for turn in range(4):
        written = go_on(conversation, **{**options, "seed": turn})
        num_kinds |= set(map(type, written))
        assert written.num_cached_tokens >= num_read - 1, "the last token is read again where its logits are unknown"
        num_read = written.num_prompt_tokens
        conversation.add([f" and {turn}", image(turn)] if turn % 2 else [f", {turn}?"])
    assert num_kinds == kinds


def test_only_what_is_new_is_read(model: MMInterleaved) -> None:
    num_visual = model.config.visual_tokenizer.num_visual_tokens
    conversation = model.open_conversation([image(0), "ab", image(1)])
    with counting(model) as num:
        first = conversation.generate(**WORDS)
        assert num == [1 + 1 + num_visual + 2 + 1 + num_visual + 4, 2]
    assert (first.num_cached_tokens, len(conversation.segments)) == (0, 4)
    [text] = first
    assert model.processor.encode_text(text) == conversation._parts[-1].pieces[0]
    conversation.add([" cd", image(2)])
    num_new_tokens = len(model.processor.encode_text(text))
    with counting(model) as num:
        second = conversation.generate(**WORDS)
    num_changed = second.num_prompt_tokens - second.num_cached_tokens
    assert num == [num_changed + 4, 1], "one image is new"
    # The model's last token was not read yet; the others are kept as far as its text is encoded as it was written.
    assert 1 <= num_changed - (3 + 1 + num_visual) <= num_new_tokens
    assert conversation.num_cached_tokens == second.num_prompt_tokens + 4


@torch.no_grad()
def test_the_state_is_that_of_reading_all_again(model: MMInterleaved) -> None:
    conversation = model.open_conversation([image(0), "ab"])
    for turn in range(4):
        conversation.generate(max_new_tokens=6, temperature=1.0, seed=turn, **DRAWING)
        conversation.add([image(turn + 1), "cd"])
        conversation.generate(mode="text", max_new_tokens=0)
        pieces = [[1], *(piece for part in conversation._parts for piece in part.pieces)]
        assert num_equal(units_of(pieces), conversation._read.units) == len(conversation._read.units)
        assert conversation._read.knows_next
        assert_kept_as_read_again(conversation)


def test_a_stop_text_is_not_a_part_of_it(model: MMInterleaved) -> None:
    conversation = model.open_conversation(["ab", image(4)])
    options = {**WORDS, "max_new_tokens": 9}
    [text] = conversation.generate(**options)
    assert text[:3].find(text[3]) < 0, "else it stops earlier"
    conversation.rewind(2)
    written = go_on(conversation, stop=text[3:5], **options)
    assert (written.text, written.finish_reason) == (text[:3], "stop")
    conversation.add([" cd"])
    go_on(conversation, **WORDS)


def test_rewinding_and_forking(model: MMInterleaved) -> None:
    conversation = model.open_conversation([image(0), "ab"])
    num_bytes = [conversation.num_bytes]
    place = len(conversation)
    first = conversation.generate(max_new_tokens=6, temperature=1.0, seed=0, **DRAWING)
    num_bytes.append(conversation.num_bytes)
    conversation.rewind(place)
    with counting(model) as num:
        again = conversation.generate(max_new_tokens=6, temperature=1.0, seed=0, **DRAWING)
        assert num[1] == len(again.images[: -1 if isinstance(again[-1], Image.Image) else None])
    assert_equal(again, first)
    other = conversation.fork()
    num_bytes.append(other.num_bytes)
    assert num_bytes[0] < num_bytes[2] <= num_bytes[1]
    conversation.rewind(1)
    conversation.add(["another question"])
    other.add([image(7)])
    go_on(conversation, **WORDS)
    go_on(other, mode="image", **DRAWING)
    go_on(conversation, **WORDS)
    go_on(other, **WORDS)
    conversation.rewind(0)
    go_on(conversation, **WORDS)


def test_nothing_may_be_said_before_the_first_word(model: MMInterleaved) -> None:
    conversation = model.open_conversation()
    other = conversation.fork()
    assert len(conversation) == 0
    go_on(conversation, **WORDS)
    other.add(["ab"])
    go_on(other, **WORDS)


def test_a_document_that_is_too_long_is_cut_or_refused(model: MMInterleaved) -> None:
    transformer = {**model.config.language_model.transformer, "max_position_embeddings": 40}
    language_model = dataclasses.replace(model.config.language_model, transformer=transformer)
    model.config = dataclasses.replace(model.config, language_model=language_model)
    conversation = model.open_conversation([image(0), "0123456789"])
    for turn in range(4):
        conversation.add([f"0123456789{turn}"])
        written = go_on(conversation, overflow="cut", **WORDS)
    assert written.num_cut == 5
    before = conversation.segments
    with pytest.raises(ValueError, match="the language model reads 40"):
        conversation.generate(**WORDS)
    assert conversation.segments == before
    conversation.rewind(3)
    go_on(conversation, **WORDS)


def test_a_task_is_put_around_what_was_added(model: MMInterleaved) -> None:
    conversation = model.open_conversation([image(0)])
    expected = model.generate([image(0)], task="caption", max_new_tokens=4)
    first = conversation.generate(task="caption", max_new_tokens=4)
    assert_equal(first, expected)
    assert conversation.segments[1:] == [" a photo of", *first]
    conversation.add([image(1)])
    second = conversation.generate(task="caption", max_new_tokens=4)
    assert_equal(second, model.generate(conversation.segments[: -len(second)], mode="text", max_new_tokens=4))
    before = conversation.segments
    for asked, error in (({"task": "caption"}, "holds 0 images and 0 texts"), ({"task": "x"}, "task is 'x'")):
        with pytest.raises(ValueError, match=error):
            conversation.generate(**asked)
    conversation.add([image(2)])
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        conversation.generate(task="caption", max_new_tokens=-1)
    assert len(conversation.segments) == len(before) + 1, "without the words of the task"


INTERLEAVED = {"max_new_tokens": 6, "max_new_images": 2, "temperature": 1.0, "seed": 1, **DRAWING}


def test_it_holds_what_a_closed_stream_yielded(model: MMInterleaved) -> None:
    """Closed after any number of its items."""
    prompt = ["ab", image(0)]
    events = list(model.generate_stream(prompt, **INTERLEAVED))
    assert len({type(event) for event in events}) == 4, "text, an image, progress, and the end"
    conversation = model.open_conversation(prompt)
    for num in range(len(events) + 1):
        conversation.rewind(len(prompt))
        expected = Generated(prompt)
        with conversation.generate_stream(**INTERLEAVED) as stream:
            for _ in range(num):
                expected.add(next(stream))
        assert conversation.segments == [*prompt, *expected]
        if num % 3 == 0 or num == len(events):
            conversation.add([" cd"])
            go_on(conversation, **WORDS)
    conversation.rewind(len(prompt))
    for event in conversation.generate_stream(**INTERLEAVED):
        if isinstance(event, str):
            break
    del event
    gc.collect()
    assert isinstance(conversation.segments[-1], str), "a stream that is only left is closed too"


def failing_at(model: MMInterleaved, number: int) -> Any:
    """Let a later layer of the language model fail in its run of that number."""
    num_runs = 0

    def run_out_of_memory(*_: object) -> None:
        nonlocal num_runs
        num_runs += 1
        if num_runs == number:
            raise MemoryError

    return model.language_model.decoder.layers[1].register_forward_hook(run_out_of_memory)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_error_changes_nothing_that_was_not_yielded(model: MMInterleaved, number: int) -> None:
    prompt: list[PromptSegment] = ["ab", image(0)]
    conversation = model.open_conversation(prompt)
    hook = failing_at(model, number)
    with pytest.raises(MemoryError):
        conversation.generate(**INTERLEAVED)
    hook.remove()
    assert conversation.segments == prompt
    conversation.add([image(1)])
    go_on(conversation, **WORDS)

    conversation.rewind(2)
    hook, expected = failing_at(model, number), Generated(prompt)
    stream = conversation.generate_stream(**INTERLEAVED)
    with pytest.raises(MemoryError):
        collections.deque(map(expected.add, stream), maxlen=0)
    hook.remove()
    assert conversation.segments == [*prompt, *expected]
    assert bool(expected) == (number > 1)
    go_on(conversation, **WORDS)


def test_it_is_refused_while_it_is_in_use(model: MMInterleaved) -> None:
    conversation = model.open_conversation(["ab"])
    stream = conversation.generate_stream(**WORDS)
    uses: list[Callable[[], object]] = [
        conversation.generate,
        conversation.generate_stream,
        lambda: conversation.add(["cd"]),
        lambda: conversation.rewind(0),
        conversation.fork,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"This conversation is in use.*close\(\) the stream"):
            use()
    stream.close()
    assert conversation.segments == ["ab"]
    conversation.generate_stream(**WORDS)  # dropped before its first item
    conversation.add(["cd"])

    inside, go = Event(), Event()

    def wait(*_: object) -> None:
        inside.set()
        assert go.wait(60)

    hook = model.language_model.decoder.register_forward_hook(wait)
    thread = Thread(target=conversation.generate, kwargs=WORDS)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(RuntimeError, match="in use"):
        conversation.add(["ef"])
    go.set()
    thread.join(60)
    hook.remove()
    assert len(conversation) == 3
    go_on(conversation, **WORDS)


def test_where_it_looked_is_told_in_each_turn(model: MMInterleaved) -> None:
    conversation = model.open_conversation([image(0), "ab"])
    conversation.generate(**WORDS)
    conversation.add([image(1)])
    for turn in range(3):
        if turn == 2:  # all is read, and what was recorded is of another token than the last
            conversation.generate(sampling_locations=True, mode="text", max_new_tokens=0)
            conversation.add([" cd"])
            conversation.generate(mode="text", max_new_tokens=0)
        before = conversation.segments
        theirs = model.generate(before, sampling_locations=True, **WORDS).sampling_locations
        ours = conversation.generate(sampling_locations=True, **WORDS).sampling_locations
        assert len(ours.images) == len(theirs.images) == 2
        for number in range(len(theirs.tokens)):
            found, expected = ours.of_token(number), theirs.of_token(number)
            for layer in range(len(expected.layers)):
                torch.testing.assert_close(
                    found.sampling_locations[layer], expected.sampling_locations[layer], rtol=1e-3, atol=1e-3
                )
    assert conversation.generate(**WORDS).sampling_locations is None


def test_what_it_does_not_do_is_said(model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match="document is a list of lists; expected the texts and images of one"):
        model.open_conversation([["a"], ["b"]])
    conversation = model.open_conversation(["a"])
    with pytest.raises(ValueError, match=r"num_return_sequences is 2; a conversation goes on in one way.*fork"):
        conversation.generate(num_return_sequences=2, temperature=1.0)
    with pytest.raises(ValueError, match="num_segments is 2; expected a whole number from 0 to 1"):
        conversation.rewind(2)
    with pytest.raises(ValueError, match="the name or address of an image"):
        conversation.add(["b", "a.png"])
    with pytest.raises(ValueError, match="preview_every is -1"):
        conversation.generate_stream(preview_every=-1)
    with pytest.raises(TypeError, match="no option 'streamer'"):
        conversation.generate(streamer=None)
    assert conversation.segments == ["a"]
    assert isinstance(list(conversation.generate_stream(**WORDS))[-1], Finished)
