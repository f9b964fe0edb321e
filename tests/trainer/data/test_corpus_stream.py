"""Batches of real data."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from models.batch import Batch
from models.config import MMInterleavedConfig
from trainer.data.config import CorpusConfig, SourceConfig
from trainer.data.corpus_stream import CorpusStream
from trainer.data.document import Image, Text
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.data.image_decoding import decode, square
from trainer.data.paper import paper_corpus, paper_mmc4, paper_pairs
from trainer.errors import UnusableDataError
from trainer.step.dataloader import micro_batch_loader
from trainer.step.phase import Phase

MODEL = MMInterleavedConfig.tiny()
NUM_VISUAL = MODEL.visual_tokenizer.num_visual_tokens
PAD, BOS, EOS, BOI, IMAGE = range(5)


def digest(batch: Batch) -> str:
    tensors = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def stream_of(*sources: SourceConfig, seed: int = 0, quarantine_file=None, **settings) -> CorpusStream:
    settings = {"num_rows": 4, "row_tokens": 128, **settings}
    named = {f"source{number}": source for number, source in enumerate(sources)}
    return CorpusStream(CorpusConfig(named, **settings), MODEL, seed=seed, quarantine_file=quarantine_file)


@pytest.fixture
def captions(shards) -> str:
    """A manifest of 40 pairs."""
    return shards.manifest(shards.pairs("captions.tar", [f"a snail with number {n}" for n in range(40)]))


@pytest.fixture
def mmc4(shards) -> str:
    """A manifest of 30 documents with 0 to 9 images, a third of them too dissimilar, in a zip and a plain file."""
    images = shards.folder("images", {f"{n}.png": shards.image_bytes(100 + n) for n in range(10)})
    rows = []
    for number in range(30):
        texts = [f"Sentence {n} of document {number}." for n in range(10)]
        names = [(f"{n}.png", n, 0.2 if n % 3 == 2 else 0.3) for n in range(number % 10)]
        rows.append(shards.mmc4_row(texts, names))
    shards.root.joinpath("mmc4").mkdir()
    shards.jsonl("mmc4/docs_shard_0_v2.jsonl.zip", rows[:20])
    shards.jsonl("mmc4/docs_shard_1_v2.jsonl", rows[20:])
    return shards.manifest(shards.root / "mmc4", images=[images])


def assert_well_formed(batch: Batch) -> None:
    real = batch.document_ids >= 0
    supervised = batch.targets != -100
    assert not supervised[~real].any()
    assert not supervised[:, -1].any()
    assert torch.equal(batch.targets[:, :-1][supervised[:, :-1]], batch.input_ids[:, 1:][supervised[:, :-1]])
    # No token learns to predict what stands in another document.
    same = batch.document_ids[:, 1:] == batch.document_ids[:, :-1]
    assert not (supervised[:, :-1] & ~same).any()
    starts = batch.position_ids == 0
    assert torch.equal(batch.input_ids == BOS, starts & real)
    assert torch.equal(torch.cumsum((batch.input_ids == BOS).long(), 1)[real] - 1, batch.document_ids[real])
    rows, columns = batch.image_positions.T
    assert torch.equal(torch.nonzero(batch.input_ids == BOI), torch.stack([rows, columns - 1], 1))
    assert (batch.input_ids[rows[:, None], columns[:, None] + torch.arange(NUM_VISUAL)] == IMAGE).all()
    assert (batch.input_ids == IMAGE).sum() == NUM_VISUAL * len(rows)
    # Drawn are all images but those that open their document; these cost no pixels of the drawn size.
    opens = batch.position_ids[rows, columns] == 2
    assert torch.equal(torch.nonzero(~opens).flatten(), batch.drawn)
    assert len(batch.drawn_pixels) == len(batch.drawn_keys) == len(batch.drawn)


def test_a_batch_depends_on_settings_seed_and_step_only(captions, mmc4):
    sources = (SourceConfig(captions, few_shot=0.5), SourceConfig(mmc4, split=True, max_images=6))
    stream = stream_of(*sources)
    in_order = [digest(stream(step)) for step in range(4)]
    assert len(set(in_order)) == 4
    assert [digest(stream_of(*sources)(step)) for step in (3, 1)] == [in_order[3], in_order[1]]
    assert digest(stream_of(*sources, seed=1)(1)) != in_order[1]
    assert digest(pickle.loads(pickle.dumps(stream))(2)) == in_order[2]


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_any_number_of_processes_makes_the_same_batch(captions, mmc4, num_processes):
    sources = (SourceConfig(captions), SourceConfig(mmc4, split=True))
    whole = stream_of(*sources, num_rows=8)(5)
    share = 8 // num_processes
    parts = [
        stream_of(*sources, num_rows=8).part(5, range(rank * share, (rank + 1) * share))
        for rank in range(num_processes)
    ]
    for name in ("input_ids", "targets", "document_ids", "position_ids", "pixel_values", "drawn_pixels", "drawn_keys"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_data_workers_make_the_same(captions):
    stream = stream_of(SourceConfig(captions), num_rows=2)
    phase = Phase("main", 1, torch.nn.Identity(), stream.compact_part, 2, len, dict, len, 5, None)
    rows = [range(0, 1), range(1, 2)]
    for workers in (0, 2):
        with micro_batch_loader(phase, rows, 2, workers, pin_memory=False) as steps:
            made = [[digest(batch.to("cpu")) for batch in step] for step in steps]
        assert made == [[digest(stream.part(step, part)) for part in rows] for step in (2, 3, 4)]


def test_batches_are_well_formed(captions, mmc4):
    sources = (SourceConfig(captions, few_shot=0.5), SourceConfig(mmc4, split=True, max_images_per_row=5))
    for step in range(6):
        assert_well_formed(stream_of(*sources)(step))


def test_input_and_target_are_the_stored_image_at_their_own_sizes(captions, shards):
    model = dataclasses.replace(MODEL, image_decoder=dataclasses.replace(MODEL.image_decoder, image_size=48))
    decoded = [decode(shards.image_bytes(n), 10_000) for n in range(40)]
    batch = CorpusStream(CorpusConfig({"a": SourceConfig(captions)}, num_rows=2, row_tokens=128), model, seed=0)(0)
    read, drawn = (
        {square(p, size).tobytes(): n for n, p in enumerate(decoded)}
        for size in (MODEL.visual_tokenizer.vision_encoder["image_size"], 48)
    )

    def numbers(pixels, known):
        bytes_ = (pixels * 255).round().byte().permute(0, 2, 3, 1)
        return [known[image.numpy().tobytes()] for image in bytes_]

    seen = numbers(batch.pixel_values, read)
    assert numbers(batch.drawn_pixels, drawn) == [seen[index] for index in batch.drawn.tolist()]
    # And each stands in the document of its caption.
    for image, (row, column) in zip(seen, batch.image_positions.tolist(), strict=True):
        mine = batch.input_ids[row][batch.document_ids[row] == batch.document_ids[row, column]].tolist()
        assert f"a snail with number {image}" in load_tokenizer().decode(mine)


def test_two_sources_of_weights_one_and_two(captions, mmc4):
    stream = stream_of(SourceConfig(captions), SourceConfig(mmc4, weight=2.0, split=True), num_rows=30)
    names = Counter(stream.source_of(step, row) for step in range(100) for row in range(30))
    assert abs(names["source1"] - 2000) < 3 * np.sqrt(3000 * 2 / 9)
    for row in range(4):  # what is said is done, and a row has one source
        tasks = {document.key.split("/")[0] for document in stream.row(3, row).documents}
        assert tasks == {stream.source_of(3, row)}


def keys_in_order(stream: CorpusStream, num_samples: int) -> list[str]:
    """The keys of documents in the rows of a run, as many as are made of so many samples."""
    keys: list[str] = []
    for step in range(num_samples):
        keys += stream.keys(step)
        if len(keys) >= num_samples:
            break
    return keys[:num_samples]


@pytest.mark.parametrize("window_shards", [1, 3, 16])
def test_every_sample_comes_once_in_an_epoch_whatever_fits_a_row(shards, window_shards):
    files = [shards.pairs(f"{n}.tar", [f"snail {n} {'is long ' * (m % 7)}{m}" for m in range(13)]) for n in range(5)]
    stream = stream_of(SourceConfig(shards.manifest(*files), held_out=4), row_tokens=111, window_shards=window_shards)
    keys = keys_in_order(stream, 3 * 61)
    epochs = [keys[:61], keys[61:122], keys[122:]]
    assert all(len(set(epoch)) == 61 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert not set(keys) & {f"source0/source0/4.tar/{number}" for number in range(61, 65)}, "which are held out"


def test_rows_are_as_full_as_they_can_be(captions):
    stream = stream_of(SourceConfig(captions), row_tokens=128)
    rows = [stream.row(step, row) for step in range(8) for row in range(4)]
    for row, following in itertools.pairwise(rows):
        assert row.num_tokens + len(following.documents[0].input_ids) > 128


def test_samples_of_an_epoch_come_once_in_groups_of_pairs_too(captions):
    stream = stream_of(SourceConfig(captions, few_shot=0.7, few_shot_pairs=(2, 8)), row_tokens=150)
    numbers: list[str] = []
    for step, row in itertools.product(range(20), range(4)):
        for document in stream.row(step, row).documents:
            numbers += re.findall(r"number (\d+)", load_tokenizer().decode(document.input_ids))
    assert sorted(map(int, numbers[:40])) == sorted(map(int, numbers[40:80])) == list(range(40))


def test_processes_tell_each_other_where_rows_begin(captions, mmc4, tmp_path):
    sources = (SourceConfig(captions, few_shot=0.5), SourceConfig(mmc4, split=True))
    alone = [digest(stream_of(*sources)(step)) for step in range(6)]
    config = stream_of(*sources).config
    streams = [CorpusStream(config, MODEL, seed=0, row_starts=tmp_path / "starts") for _ in range(2)]
    assert [digest(streams[step % 2](step)) for step in range(6)] == alone
    files = sorted((tmp_path / "starts").iterdir())
    assert len(files) == 2
    whole = [file.read_bytes() for file in files]
    for file, data in zip(files, whole, strict=True):  # killed in the middle, or without power
        file.write_bytes(data[:20] + bytes(16))
    assert digest(CorpusStream(config, MODEL, seed=0, row_starts=tmp_path / "starts")(5)) == alone[5]
    assert all(whole[n].startswith(file.read_bytes()[:40]) for n, file in enumerate(files))
    other = dataclasses.replace(config, row_tokens=100)
    for step in range(4):
        CorpusStream(other, MODEL, seed=0, row_starts=tmp_path / "starts")(step)
    assert len(list((tmp_path / "starts").iterdir())) == 4, "another order has files of its own"


def test_a_row_whose_samples_are_all_broken_gets_others_and_no_row_changes(shards, tmp_path):
    words = [f"snail number {number} {'and so on ' * 4}" for number in range(12)]
    whole = shards.manifest(shards.pairs("whole.tar", words))
    members = []
    for number, caption in enumerate(words):
        image = b"broken" if number in (2, 3, 7) else shards.image_bytes(number)
        members += [(f"{number:05d}.png", image), (f"{number:05d}.txt", caption.encode())]
    damaged = shards.manifest(shards.tar("damaged.tar", members))

    def rows(manifest: str, row_tokens: int) -> list[list[str]]:
        # The order depends on the name of the source, not of its shards.
        stream = stream_of(SourceConfig(manifest), row_tokens=row_tokens, max_broken=1.0)
        found = [stream.row(step, row) for step in range(3) for row in range(4)]
        return [[document.key.rpartition("/")[2] for document in row.documents] for row in found]

    for row_tokens in (70, 180):
        for right, found in zip(rows(whole, row_tokens), rows(damaged, row_tokens), strict=True):
            left = [key for key in right if key not in ("2", "3", "7")]
            if left:
                assert found == left
            else:
                assert len(found) == 1
                assert found[0] not in ("2", "3", "7")


def test_images_stand_before_or_after_with_equal_chance(captions):
    stream = stream_of(SourceConfig(captions))
    documents = stream.documents(0, 0)
    first = [isinstance(next(documents).segments[0], Image) for _ in range(300)]
    assert 120 < sum(first) < 180


def test_pairs_are_grouped_into_few_shot_documents(captions):
    rules = SourceConfig(captions, few_shot=0.25, few_shot_pairs=(2, 8))
    stream = stream_of(rules, row_tokens=400)
    documents = stream.documents(0, 0)
    sizes = Counter()
    for _ in range(400):
        document = next(documents)
        kinds = [isinstance(segment, Image) for segment in document.segments]
        assert kinds == [kinds[0], not kinds[0]] * document.truth["num_pairs"]
        sizes[document.truth["num_pairs"]] += 1
    assert set(sizes) == set(range(1, 9))
    assert 60 < 400 - sizes[1] < 140
    # In the batch they are one document: one `<s>`, and every image but the first can be drawn and looks back.
    batch = stream_of(dataclasses.replace(rules, few_shot=1.0), row_tokens=400)(0)
    assert_well_formed(batch)
    per_document = Counter(zip(*batch.image_positions.T.tolist(), strict=True))
    images = Counter((row, int(batch.document_ids[row, column])) for row, column in batch.image_positions.tolist())
    assert len(per_document) == len(batch.image_positions)
    assert min(images.values()) >= 1
    assert np.mean(list(images.values())) > 3
    assert len(batch.drawn) > 0.7 * len(batch.image_positions)


def test_a_group_that_does_not_fit_comes_with_fewer_pairs(captions):
    stream = stream_of(SourceConfig(captions, few_shot=1.0, few_shot_pairs=(8, 8)), row_tokens=50)
    for row in range(4):
        (document,) = stream.row(0, row).documents
        assert 1 < len(document.images) < 8
        assert document.input_ids[-1] == EOS


def test_split_documents_fill_rows_to_the_last_token(mmc4):
    stream = stream_of(SourceConfig(mmc4, split=True), row_tokens=100)
    assert all(stream.row(step, row).num_tokens > 100 - NUM_VISUAL - 2 for step in range(3) for row in range(4))
    whole = stream_of(SourceConfig(mmc4), row_tokens=400)
    for row in range(4):
        assert all(document.input_ids[-1] == EOS for document in whole.row(0, row).documents)


def test_every_part_of_a_long_document_is_met(shards):
    row = {"segments": [{"text": f"sentence {n:02}"} for n in range(60)]}
    manifest = shards.manifest(shards.jsonl("long.jsonl", [row]))
    stream = stream_of(SourceConfig(manifest, keep_no_image=1.0, split=True), row_tokens=40)
    met = set()
    for step in range(40):
        for number in range(4):
            documents = stream.row(step, number).documents
            assert sum(len(document.input_ids) for document in documents) == 40
            met |= {n for n in range(60) if f"sentence {n:02}" in load_tokenizer().decode(documents[0].input_ids)}
    assert met == set(range(60))


def test_a_row_has_its_most_images(captions):
    stream = stream_of(SourceConfig(captions, max_images_per_row=3), row_tokens=1000)
    assert [sum(len(d.images) for d in stream.row(0, row).documents) for row in range(4)] == [3] * 4


def test_text_without_an_image_before_it_carries_no_loss_where_asked(captions):
    batch = stream_of(SourceConfig(captions, text_loss_needs_image=True))(0)
    free = stream_of(SourceConfig(captions))(0)
    assert torch.equal(batch.input_ids, free.input_ids)
    rows, columns = (batch.targets != free.targets).nonzero().T
    assert len(rows) > 0
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        start = column - int(batch.position_ids[row, column])
        assert BOI not in batch.input_ids[row, start : column + 1]


def test_words_that_look_like_special_tokens_are_words(shards):
    caption = "a page about <s> and </s> and <image> <BoI>"
    batch = stream_of(SourceConfig(shards.manifest(shards.pairs("a.tar", [caption]))))(0)
    assert_well_formed(batch)
    first = batch.input_ids[0][batch.document_ids[0] == 0]
    words = [token for token in first.tolist() if token not in (BOS, EOS, BOI, IMAGE)]
    assert load_tokenizer().decode(words).strip() == caption


def test_a_tokenizer_that_puts_spaces_before_words_gets_none(shards, tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"▁a": 5, "▁snail": 6, "?": 7}, unk_token="?"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    manifest = shards.manifest(shards.pairs("a.tar", ["a snail"]))
    batch = stream_of(SourceConfig(manifest), tokenizer_file=str(tmp_path / "tokenizer.json"))(0)
    assert set(batch.input_ids.flatten().tolist()) == {PAD, BOS, EOS, BOI, IMAGE, 5, 6}


@pytest.mark.parametrize("kind", ["mmc4", "obelics", "jsonl", "pairs"])
def test_the_paper_recipe_on_every_format(shards, mmc4, captions, kind):
    images = shards.root / "images"
    if kind == "obelics":
        rows = [{"texts": ["One.", None, "Two."], "images": [None, f"{n}.png", None]} for n in range(10)]
        manifest = shards.manifest(shards.parquet("obelics.parquet", rows), images=[images])
    elif kind == "jsonl":
        rows = [{"segments": [{"text": "One."}, {"image": f"{n}.png"}, {"image": "0.png"}]} for n in range(10)]
        manifest = shards.manifest(shards.jsonl("plain.jsonl", rows), images=[images])
    else:
        manifest = {"mmc4": mmc4, "pairs": captions}[kind]
    rules = paper_pairs(manifest) if kind == "pairs" else paper_mmc4(manifest)
    for step in range(2):
        batch = stream_of(rules, row_tokens=300, num_rows=2)(step)
        assert_well_formed(batch)
        assert len(batch.pixel_values) > 0
        counts = Counter((row, int(batch.document_ids[row, column])) for row, column in batch.image_positions.tolist())
        assert max(counts.values()) <= (8 if kind == "pairs" else 6)


def test_the_paper_recipe_is_the_papers(mmc4, captions):
    config = paper_corpus({"laion_en": captions, "laion_coco": captions, "blip2": captions}, mmc4, num_rows=16)
    stream = CorpusStream(config, MODEL, seed=0)
    names = Counter(stream.source_of(step, row) for step in range(128) for row in range(16))
    assert [names[name] / 2048 for name in config.sources] == pytest.approx([0.2, 0.2, 0.2, 0.4], abs=1e-3)
    assert config.row_tokens == 2048
    batch = stream.part(0, range(4))
    assert_well_formed(batch)
    documents = (
        document
        for row in range(16)
        if stream.source_of(1, row) == "mmc4"
        for document, _ in zip(stream.documents(1, row), range(40), strict=False)
    )
    sizes = Counter()
    for document in documents:
        images = [s for s in document.segments if isinstance(s, Image)]
        sizes[len(images)] += 1
        assert {bool(s.text.strip()) for s in document.segments if isinstance(s, Text)} == {True}
    # 30 documents with n = 0..9 images, n // 3 of them dissimilar: 1, 2, 2, 3, 4, 4, 5, 6, 6 are left, one-image
    # documents half as often.
    assert set(sizes) == set(range(1, 7))
    assert 0.3 < sizes[1] / sizes[3] < 0.75


def test_broken_images_and_rows_are_passed_over_and_named(shards, tmp_path):
    whole = shards.image_bytes(0)
    jpeg = shards.image_bytes(1, (200, 200), "JPEG")
    members = []
    for number, (data, text) in enumerate(
        [(whole, b"a good snail"), (jpeg[:3000], b"cut"), (shards.bomb(), b"bomb"), (whole, b"\xff"), (b"", b"empty")]
    ):
        members += [(f"{number}.png", data), (f"{number}.txt", text)]
    manifest = shards.manifest(shards.tar("a.tar", members))
    file = tmp_path / "quarantine.jsonl"
    stream = stream_of(SourceConfig(manifest), quarantine_file=file, max_broken=1.0)
    batch = stream(0)
    assert_well_formed(batch)
    documents = [document for row in range(4) for document in stream.row(0, row).documents]
    assert {load_tokenizer().decode(document.input_ids).strip() for document in documents} == {"a good snail"}
    reasons = sorted(json.loads(line)["reason"] for line in file.read_text().splitlines())
    assert len(reasons) == 4
    assert sum("cannot be decoded" in reason for reason in reasons) == 2
    assert "has 9000 x 9000 pixels" in reasons[2]
    assert "not UTF-8" in reasons[3]
    # A broken sample does not change which others are taken.
    assert digest(stream(0)) == digest(batch)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with-others"])
def test_each_row_is_planned_once(captions, tmp_path, monkeypatch, shared):
    stream = CorpusStream(
        CorpusConfig({"source0": SourceConfig(captions)}, num_rows=4, row_tokens=128),
        MODEL,
        seed=0,
        row_starts=tmp_path / "starts" if shared else None,
    )
    planned = []
    filled = stream._filled
    monkeypatch.setattr(stream, "_filled", lambda name, start: planned.append(start) or filled(name, start))
    batches = [digest(stream(step)) for step in range(3)]
    assert len(planned) == len(set(planned)) == 12
    other = stream_of(SourceConfig(captions))
    assert digest(other(2)) == batches[2]
    if shared:  # who comes later reads where rows begin
        later = CorpusStream(stream.config, MODEL, seed=0, row_starts=tmp_path / "starts")
        monkeypatch.setattr(later, "_filled", lambda name, start: planned.append(start) or filled(name, start))
        planned.clear()
        assert digest(later(3)) == digest(other(3))
        assert len(planned) == 4


def test_jpegs_are_decoded_at_a_fraction_of_their_size_by_choice(shards, monkeypatch):
    from models.images import image_file

    sizes = []
    to_rgb = image_file.to_rgb
    monkeypatch.setattr(image_file, "to_rgb", lambda image, **o: sizes.append(image.size) or to_rgb(image, **o))
    members = [("0.jpg", shards.image_bytes(0, (128, 96), "JPEG")), ("0.txt", b"a snail")]
    manifest = shards.manifest(shards.tar("a.tar", members))
    fine, fast = (stream_of(SourceConfig(manifest), decoding=name)(0).pixel_values for name in ("fine", "fast"))
    assert set(sizes) == {(128, 96), (64, 48)}  # 32 px are read and drawn
    assert 0 < float((fine - fast).abs().mean()) < 0.05


def test_a_broken_image_leaves_its_document(shards):
    images = shards.folder("images", {"a.png": shards.image_bytes(0), "b.png": b"broken"})
    row = {"segments": [{"text": "One."}, {"image": "b.png"}, {"text": "Two."}, {"image": "a.png"}]}
    only = {"segments": [{"text": "Three."}, {"image": "b.png"}]}
    manifest = shards.manifest(shards.jsonl("a.jsonl", [row, only]), images=[images])
    stream = stream_of(SourceConfig(manifest), max_broken=1.0)
    document = next(stream.documents(0, 0))
    assert [s.text if isinstance(s, Text) else "image" for s in document.segments] == ["One.", " Two.", "image"]
    assert {next(stream.documents(step, 0)).key for step in range(8)} == {"source0/a.jsonl/0"}


def test_too_many_broken_ones_stop_the_run(shards):
    members = [member for n in range(4) for member in ((f"{n}.png", b"broken"), (f"{n}.txt", b"a snail"))]
    manifest = shards.manifest(shards.tar("a.tar", members), shards.pairs("b.tar", ["a good snail"]))
    with pytest.raises(UnusableDataError, match=r"more than the share of 0.01 .* The last: .*a.tar at byte"):
        stream_of(SourceConfig(manifest), num_rows=50)(0)


def test_data_without_images_is_named_as_the_reason(shards):
    images = shards.folder("images", {"a.png": shards.image_bytes(0)})
    rows = [{"texts": ["One.", None], "images": [None, f"{number}.png"]} for number in range(9)]
    rows.append({"texts": [None], "images": ["a.png"]})
    manifest = shards.manifest(shards.jsonl("a.jsonl", rows), images=[images])
    with pytest.raises(UnusableDataError, match=r"or broken. 9 images that its documents name were not found when it"):
        stream_of(SourceConfig(manifest, max_images=1, keep_one_image=0.0))(0)


def test_rules_that_leave_nothing_stop_the_run(captions):
    with pytest.raises(UnusableDataError, match="1000 samples of source 'source0' in succession were dropped"):
        stream_of(SourceConfig(captions, min_caption_chars=1000))(0)
    with pytest.raises(UnusableDataError, match="1000 documents of source 'source0' in succession are longer"):
        stream_of(SourceConfig(captions), row_tokens=NUM_VISUAL + 3)(0)


def test_a_row_shorter_than_an_image_is_refused(captions):
    with pytest.raises(ValueError, match=f"an image alone needs {NUM_VISUAL + 3}"):
        stream_of(SourceConfig(captions), row_tokens=NUM_VISUAL + 2)


def test_a_tokenizer_larger_than_the_model_is_refused(captions, tmp_path):
    big = Tokenizer(models.WordLevel({str(n): n for n in range(2000)}, unk_token="0"))
    big.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="has 2000 tokens, the language model"):
        stream_of(SourceConfig(captions), tokenizer_file=str(tmp_path / "tokenizer.json"))
