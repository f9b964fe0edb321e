"""The exported model reads and writes as the model does, whoever computes its components."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from export.runtime import Session
from export.runtime.runner import Tensors
from export.validate.end_to_end import compare
from models import MMInterleaved
from models.generation import scoring
from models.generation.conversation import Conversation
from models.generation.generated import Finished, Generated, Preview, Progress
from models.generation.state import ContextFull
from models.images.image_file import open_image

INTERLEAVED = {"max_new_tokens": 8, "max_new_images": 2, "num_inference_steps": 3, "seed": 5}


def images(model_dir: Path) -> list[Image.Image]:
    return list(map(open_image, sorted((model_dir / "samples").glob("*.png"))))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # dpm with numpy 2
@pytest.mark.parametrize(
    "drawing",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0, "scheduler": "dpm"},
        {"guidance_scale": 2.0, "image_guidance_scale": 1.5, "scheduler": "ddpm"},
    ],
    ids=["plain", "guided", "guided-by-images"],
)
def test_it_draws_when_the_model_wants_to_and_reads_what_it_drew(
    session: Session, unchanged_model: MMInterleaved, drawing: dict
) -> None:
    expected = unchanged_model.generate(["draw"], **INTERLEAVED, **drawing)
    assert isinstance(expected[0], Image.Image)
    assert expected.text
    found = session.generate(["draw"], **INTERLEAVED, **drawing)
    assert compare(expected, found) is None
    assert found.finish_reason == expected.finish_reason


def test_a_batch_of_documents_of_every_kind(session: Session, unchanged_model: MMInterleaved, model_dir: Path) -> None:
    first, second, third = images(model_dir)
    long = "a text that does not fit into the cache that a reading begins with " * 6
    documents = [["draw"], [first, "one", second, long], [third, "draw"], []]
    options = {**INTERLEAVED, "temperature": 1.0, "top_k": 20, "scheduler": "ddpm", "guidance_scale": 2.0}
    both = zip(unchanged_model.generate(documents, **options), session.generate(documents, **options), strict=True)
    assert [compare(expected, found) for expected, found in both] == [None] * 4


def test_beams(session: Session, unchanged_model: MMInterleaved, model_dir: Path) -> None:
    options = {"mode": "text", "num_beams": 3, "max_new_tokens": 5}
    documents = [images(model_dir)[:1], ["two"]]
    assert session.generate(documents, **options) == unchanged_model.generate(documents, **options)


def test_texts_are_ranked(
    session: Session, unchanged_model: MMInterleaved, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CANDIDATES_AT_A_TIME", 3)  # in two goes, the second behind the same document
    document, candidates = [images(model_dir)[0], "is it?"], ["yes", "no", "a much longer answer", "n", "yes"]
    both = unchanged_model.score(document, candidates), session.score(document, candidates)
    for expected, found in zip(*both, strict=True):
        assert found.log_probability == pytest.approx(expected.log_probability, rel=1e-4)
        assert (found.candidate, found.num_tokens) == (expected.candidate, expected.num_tokens)
    assert both[1][0].log_probability == pytest.approx(both[1][4].log_probability, rel=1e-5)
    assert [score.rank for score in both[1] if score.candidate == "n"] == [1], "one token of about 1/1024"
    with pytest.raises(ContextFull, match="the language model reads 512"):
        session.score(document, ["word " * 600])


def test_streams_do_not_disturb_each_other(session: Session) -> None:
    options = {"mode": "text", "max_new_tokens": 6}
    prompts = ["one", "a longer text"]
    streams = [session.generate_stream([prompt], **options) for prompt in prompts]
    written = [Generated([prompt]) for prompt in prompts]
    for number in (0, 1, 1, 0, 0, 1):
        written[number].add(next(streams[number]))
    for result, stream in zip(written, streams, strict=True):
        for event in stream:
            result.add(event)
    for result, prompt in zip(written, prompts, strict=True):
        alone = session.generate([prompt], **options)
        assert (result, result.num_prompt_tokens, result.num_new_tokens) == (alone, alone.num_prompt_tokens, 6)


def test_previews_come_before_the_image(session: Session) -> None:
    events = list(
        session.generate_stream(["draw"], mode="image", num_inference_steps=3, guidance_scale=1.0, preview_every=1)
    )
    kinds = [Progress, Preview, Progress, Preview, Progress, Image.Image, Finished]
    assert [type(event) for event in events] == kinds
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3]


def test_an_image_is_projected_once_and_nothing_moves(
    session: Session, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_projected: dict[str, int] = {}
    for name in ("mmfs_values_llm", "mmfs_values_unet"):
        run = session.runners[name].run

        def counted(inputs: Tensors, name: str = name, run: Callable[[Tensors], Tensors] = run) -> Tensors:
            num_projected[name] = num_projected.get(name, 0) + len(inputs["ms_features"])
            return run(inputs)

        monkeypatch.setattr(session.runners[name], "run", counted)
    options = {**INTERLEAVED, "guidance_scale": 3.0, "image_guidance_scale": 2.0}
    prompt = [*images(model_dir)[:2], "draw"]

    written = session.generate(prompt, **options)
    assert len(written.images) == 1
    assert num_projected == {"mmfs_values_llm": 3, "mmfs_values_unet": 2}, "nothing is drawn after the last image"
    memory = session._free[-1]
    tensors = [*memory.seen.banks.values(), *memory.drawn_from.banks.values(), *memory.cache(1, 64).past.values()]
    addresses = [tensor.data_ptr() for tensor in tensors]
    session.generate(prompt, **options)
    memory = session._free[-1]
    tensors = [*memory.seen.banks.values(), *memory.drawn_from.banks.values(), *memory.cache(1, 64).past.values()]
    assert [tensor.data_ptr() for tensor in tensors] == addresses


def test_what_an_earlier_document_left_behind_does_not_count(session: Session, model_dir: Path) -> None:
    options = {"mode": "text", "max_new_tokens": 6}
    before = session.generate(["one"], **options)
    session.generate([*images(model_dir), "something else entirely"], **options)
    assert session.generate(["one"], **options) == before


def test_too_long_a_document_is_refused(session: Session) -> None:
    with pytest.raises(ContextFull, match="the language model reads 512"):
        session.generate(["word " * 600], mode="text", max_new_tokens=1)


def test_a_directory_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.trt"):
        Session.open(tmp_path, "ort")


def test_other_back_ends_are_refused(exported: Path) -> None:
    with pytest.raises(ValueError, match="backend is 'tvm'; expected one of ort, torch, trt, rtx"):
        Session.open(exported, "tvm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the model that was exported"):
        Session.open(exported, "torch")


def test_other_devices_are_refused(exported: Path, unchanged_model: MMInterleaved) -> None:
    with pytest.raises(ValueError, match=r"device is 'gpu'\. Expected cpu, cuda"):
        Session.open(exported, "ort", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="PyTorch sees no NVIDIA GPU here"):
            Session.of(unchanged_model, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("drawing", [{"guidance_scale": 3.0}, {"scheduler": "ddpm", "guidance_scale": 1.0}])
def test_recorded_steps_write_and_draw_the_same(model_dir: Path, drawing: dict) -> None:
    options = {**INTERLEAVED, **drawing}
    on_cpu = Session.of(MMInterleaved.from_pretrained(model_dir), device="cpu")
    on_gpu = Session.of(MMInterleaved.from_pretrained(model_dir), device="cuda")
    expected = on_cpu.generate([["draw"], ["draw", "draw"]], **options)
    for _ in range(2):  # recorded, and then only replayed
        found = on_gpu.generate([["draw"], ["draw", "draw"]], **options)
        assert [compare(*both) for both in zip(expected, found, strict=True)] == [None, None]


def test_a_conversation_is_read_once(
    session: Session, unchanged_model: MMInterleaved, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every turn is what PyTorch writes after the whole document; going back and both ways of a fork too."""
    num_encoded = 0
    run = session.runners["image_tokenizer"].run

    def counted(inputs: Tensors) -> Tensors:
        nonlocal num_encoded
        num_encoded += len(inputs["pixel_values"])
        return run(inputs)

    monkeypatch.setattr(session.runners["image_tokenizer"], "run", counted)

    def go_on(conversation: Conversation, **options: Any) -> Generated:
        before = conversation.segments
        found = conversation.generate(**options)
        expected = unchanged_model.generate(before, **options)
        assert compare(expected, found) is None
        assert (found.finish_reason, found.num_prompt_tokens) == (expected.finish_reason, expected.num_prompt_tokens)
        assert conversation.segments == [*before, *found]
        return found

    first, second, third = images(model_dir)
    conversation = session.open_conversation([first, "one"])
    words = {"mode": "text", "max_new_tokens": 5, "temperature": 1.0, "top_k": 20}
    prompt = go_on(conversation, **words).num_prompt_tokens
    place = len(conversation)
    conversation.add([second, "draw"])
    written = go_on(conversation, **INTERLEAVED)
    assert written.images
    assert written.num_cached_tokens >= prompt
    assert num_encoded == 2 + len(written.images)
    other = conversation.fork()
    conversation.rewind(place)
    conversation.add([third])
    go_on(conversation, **words)
    other.add(["two"])
    go_on(other, **words)
    go_on(conversation, mode="text", num_beams=3, max_new_tokens=4)
    go_on(other, mode="image", num_inference_steps=3)
    assert num_encoded == 3 + len(written.images)
    with other.generate_stream(**words) as stream:
        text = [next(stream), next(stream)]
    assert other.segments[-1] == "".join(map(str, text))
    go_on(other, **words)
