from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from models import MMInterleaved, MMInterleavedProcessor
from trainer.config import TrainConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.document import Document, Image, Text
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.errors import UsageError
from trainer.recipes import tiny
from trainer.sample_sheet import (
    CELL_PX,
    COLUMNS,
    IMAGE_PX,
    MARGIN_PX,
    SPARE_TOKENS,
    Sampler,
    last_left_out,
    of_corpus,
    sheet,
)
from trainer.system_config import LoggingConfig

NUM_VISUAL = tiny().model.visual_tokenizer.num_visual_tokens


def config(out, **tasks):
    return replace(tiny(), out=str(out), data=replace(tiny().data, tasks=tasks), logging=LoggingConfig(sample_every=2))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MMInterleaved(tiny().model, MMInterleavedProcessor(load_tokenizer(), image_size=32)).eval()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sheet_for_a_step_which_is_the_same_again(model, tmp_path, precision):
    sample = Sampler(model, replace(config(tmp_path, read=1.0, draw=2.0, caption=0.0), precision=precision))
    sample(1, lambda: True)  # the run is told to stop meanwhile
    assert not (tmp_path / "samples").exists()
    sample(2)
    torch.rand(1)
    sample(40)
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == ["0000002.png", "0000040.png"]
    first, again = (np.asarray(PILImage.open(tmp_path / "samples" / f"{name}.png")) for name in ("0000002", "0000040"))
    assert first.shape[1] == len(COLUMNS) * CELL_PX
    assert np.abs(first.astype(int) - again).max() <= 1, "a step of 8 bits, where a pixel lies between two"
    borders = np.flatnonzero((first[:, :, 0] == 211).all(axis=1))
    assert len(borders) == 2  # a line for each family that has a weight


def test_images_and_text_stand_in_their_columns():
    red, blue = (PILImage.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    pixels = np.asarray(sheet([([red, red, red, " words"], ["truth"], [blue])]))
    is_red, is_blue = ((pixels == colour).all(axis=2) for colour in ((255, 0, 0), (0, 0, 255)))
    assert is_red.sum() == 3 * IMAGE_PX**2
    assert np.flatnonzero(is_red.any(axis=0)).max() < CELL_PX - MARGIN_PX
    assert is_blue.sum() == IMAGE_PX**2
    assert np.flatnonzero(is_blue.any(axis=0)).min() == 2 * CELL_PX + MARGIN_PX
    truth = pixels[40:, CELL_PX + 1 : 2 * CELL_PX]
    assert (truth == 0).any()
    below = pixels[np.flatnonzero(is_red.any(axis=1)).max() + 1 :, :CELL_PX]
    assert (below == 0).any()


def on(corpus: CorpusConfig, **settings) -> TrainConfig:
    encoder = replace(tiny().encoder_pretraining, num_steps=0)
    return replace(tiny(), corpus=corpus, encoder_pretraining=encoder, **settings)


@pytest.fixture
def corpus(shards) -> CorpusConfig:
    """Twelve questions about images, a broken one among the last, and eight pairs."""
    encoded = {f"{number}.png": shards.image_bytes(number) for number in range(12)}
    images = shards.folder("images", {**encoded, "9.png": b"broken"})
    rows = [{"image": f"{n}.png", "question": f"Who is {n}?", "answer": f"It is {n}."} for n in range(12)]
    asked = shards.manifest(shards.jsonl("asked.jsonl", rows), images=[images])
    pairs = shards.manifest(shards.pairs("pairs.tar", [f"a snail with number {n}" for n in range(8)]))
    sources = {"asked": SourceConfig(asked, held_out=4), "pairs": SourceConfig(pairs, held_out=6, few_shot=0.5)}
    return CorpusConfig(sources, num_rows=4, row_tokens=128, max_broken=1.0)


def test_what_is_held_out_is_shown_and_never_trained_on(model, corpus):
    asked = of_corpus(corpus, model)
    texts = [one for one in asked if isinstance(one.truth, str) and one.truth.startswith("It is")]
    assert [one.truth for one in texts] == ["It is 8.", "It is 10.", "It is 11."], "9 has a broken image"
    assert all(one.given[-1].text.endswith("The answer is:") and one.max_new_tokens for one in texts)
    pairs = asked[len(texts) :]
    assert len(pairs) == 4
    for one in pairs:
        is_drawn = isinstance(one.truth, PILImage.Image)
        assert isinstance(one.given[-1], Text) == is_drawn
        assert (one.max_new_tokens == 0) == is_drawn
    assert {isinstance(one.truth, str) for one in pairs} == {True, False}, "in both orders"
    again = of_corpus(corpus, model)
    assert [[s.text for s in one.given if isinstance(s, Text)] for one in again] == [
        [s.text for s in one.given if isinstance(s, Text)] for one in asked
    ]
    stream = CorpusStream(corpus, model.config, seed=3)
    keys = {key for step in range(40) for key in stream.keys(step)}
    numbers = {name: {int(key.rpartition("/")[2]) for key in keys if key.startswith(name)} for name in corpus.sources}
    assert numbers == {"asked": set(range(8)), "pairs": {0, 1}}


def test_a_sheet_of_a_corpus(model, corpus, tmp_path):
    sample = Sampler(model, on(corpus, out=str(tmp_path), logging=LoggingConfig(sample_every=1)))
    for step in (1, 2):
        sample(step)
    one, other = (np.asarray(PILImage.open(tmp_path / "samples" / f"000000{step}.png")) for step in (1, 2))
    assert (one == other).all()
    assert len(np.flatnonzero((one[:, :, 0] == 211).all(axis=1))) == 7
    truth = one[:, CELL_PX : 2 * CELL_PX]
    assert ((truth > 0) & (truth < 200)).any(), "a true image is among them"


def test_the_last_segment_to_learn_is_left_out():
    image = Image(np.zeros((8, 8, 3), np.uint8), target=np.full((4, 4, 3), 9, np.uint8))

    def left(*segments):
        return last_left_out(Document(segments, "x", "x/0", 0, {}))

    story = left(Text("One."), image, Text("Two.", loss=False), image, Text("Three.", loss=False))
    assert len(story.given) == 3
    assert np.asarray(story.truth).tolist() == image.target.tolist()
    assert left(image, Text("What?", loss=False), Text(" A snail.")).truth == "A snail."
    assert left(image, Text("What?", loss=False)) is None
    assert left(Text("Alone.")) is None


def test_a_long_document_is_cut_where_a_row_ends(model, shards):
    images = shards.folder("images", {"a.png": shards.image_bytes(0)})
    long = {"segments": [{"text": "One."}, {"image": "a.png"}, {"text": "Two. " * 100}]}
    text = {"segments": [{"text": "One. " * 100}, {"image": "a.png"}]}
    manifest = shards.manifest(shards.jsonl("a.jsonl", [long, text, long]), images=[images])
    config = CorpusConfig({"web": SourceConfig(manifest, held_out=2, split=True)}, num_rows=1, row_tokens=64)
    [one] = of_corpus(config, model)
    assert isinstance(one.truth, PILImage.Image)
    # The model reads 512 tokens, and what it makes has to fit too.
    parts = {"segments": [part for n in range(40) for part in ({"text": f"Part {n} of it."}, {"image": "a.png"})]}
    longer = shards.manifest(shards.jsonl("b.jsonl", [parts, parts]), images=[images])
    [cut] = of_corpus(CorpusConfig({"web": SourceConfig(longer, held_out=1)}, num_rows=1, row_tokens=2048), model)
    texts = [model.processor.encode_text(one.text) for one in cut.given if isinstance(one, Text)]
    num_tokens = sum(map(len, texts)) + sum(1 + NUM_VISUAL for one in cut.given if isinstance(one, Image))
    assert 300 < num_tokens <= 512 - SPARE_TOKENS
    nothing = replace(
        config,
        sources={
            "web": SourceConfig(manifest, held_out=2, split=True, min_similarity=0.5, max_images=1, keep_one_image=0.0)
        },
    )
    with pytest.raises(UsageError, match=r"nothing that is held out of the corpus \({'web': 2}\) can be shown"):
        of_corpus(nothing, model)


def test_a_corpus_has_to_hold_something_out(shards, model):
    manifest = shards.manifest(shards.pairs("a.tar", ["a snail", "an owl"]))
    with pytest.raises(UsageError, match="sample_every is 5, with a corpus that holds nothing out"):
        on(CorpusConfig({"pairs": SourceConfig(manifest)}), logging=LoggingConfig(sample_every=5))
    with pytest.raises(ValueError, match="held_out is 2; expected less than its 2 samples"):
        CorpusStream(CorpusConfig({"pairs": SourceConfig(manifest, held_out=2)}), model.config, seed=0)
    with pytest.raises(ValueError, match="held_out is -1"):
        SourceConfig(manifest, held_out=-1)
