"""examples/tuxpaint_captions.py: a folder of stamps becomes a captioner and its CIDEr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from examples import tuxpaint_captions
from trainer.benchmarks.all import BENCHMARKS
from trainer.data import index
from trainer.data.sources.manifest import load_manifest
from trainer.data.text_tokenizer import read_tokenizer
from trainer.evaluate import main as evaluate
from trainer.finetune import main as finetune


def write_stamps(folder: Path) -> None:
    """24 subjects with two images each, one in colours with transparency; and letters, which are left out."""
    for number in range(24):
        name = "abcdefghijklmnopqrstuvwx"[number] * 3
        for place, mode in ((f"things/{name}_1", "RGBA"), (f"things/cartoon/{name}2", "RGB")):
            image = folder / f"{place}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (40, 30), (10 * number, 90, 60, 128)[: len(mode)]).save(image)
            image.with_suffix(".txt").write_text(f"A {name}, the {place[-1]}th.\nes=Una {name}.\n", encoding="utf-8")
    (folder / "symbols").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "symbols" / "q.png")
    (folder / "symbols" / "q.txt").write_text("The letter q.\n")
    Image.new("RGB", (8, 8)).save(folder / "things" / "silent.png")


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    folder = tmp_path / "stamps"
    folder.mkdir()
    write_stamps(folder)
    return folder


def test_both_forms_are_read_and_share_no_subject(stamps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tuxpaint_captions.main(["prepare", str(stamps), "--out", str(out)]) == 0
    benchmark = BENCHMARKS["coco_caption"]
    test, val = benchmark.open(out, "test").samples, benchmark.open(out, "val").samples
    trained = [one["file_name"] for one in json.loads((out / "train.json").read_text())["images"]]
    held_out = [str(sample.images[0].path.relative_to(out / "coco" / "stamps")) for sample in test]
    assert len(trained) + len(held_out) == 48
    assert len(held_out) >= 2
    assert not {Path(file).stem[:3] for file in trained} & {Path(file).stem[:3] for file in held_out}
    assert all(sample.images[0].path.is_file() for sample in [*test, *val])
    name = Path(held_out[0]).stem
    assert test[0].truth["references"] == [f"A {name[:3]}, the {name[-1]}th."]
    assert {str(sample.images[0].path.relative_to(out / "coco" / "stamps")) for sample in val} <= set(trained)
    arguments = [str(out / "train.json"), "--form", "coco_captions", "--images", str(stamps), "--num-workers", "1"]
    assert index.main([*arguments, "--out", str(out / "index")]) == 0
    assert len(load_manifest(str(out / "index"))) == len(trained)


def test_stamps_with_one_sentence_stand_together() -> None:
    stamps = [tuxpaint_captions.Stamp(f"a/{letter * 2}.png", f"A {letter}.") for letter in "abcdefghijklmnop"]
    stamps += [tuxpaint_captions.Stamp(f"b/{letter * 3}.png", f"a {letter}!") for letter in "abcdefghijklmnop"]
    trained, held_out = tuxpaint_captions.split(stamps)
    assert held_out
    assert not {one.sentence[2] for one in trained} & {one.sentence[2] for one in held_out}


def test_the_tokenizer_writes_any_text(tmp_path: Path) -> None:
    tuxpaint_captions.make_tokenizer(["A frog.", "A blue frog."]).save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(str(tmp_path / "tokenizer.json"))
    assert [tokenizer.id_to_token(number) for number in range(5)] == ["<pad>", "<s>", "</s>", "<BoI>", "<image>"]
    for text in ("A frog.", "Ein Gnu – 3 €", "青蛙"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode(" frog").ids) == 1


def test_a_folder_without_stamps_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        tuxpaint_captions.main(["prepare", str(tmp_path), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "expected the stamps of Tux Paint" in capsys.readouterr().err


def test_shuffled_answers_belong_to_other_images(tmp_path: Path) -> None:
    rows = [{"id": str(number), "prediction": f"answer {number}"} for number in range(5)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["shuffle", str(tmp_path / "predictions.jsonl"), str(tmp_path / "shuffled.jsonl")]
    assert tuxpaint_captions.main(arguments) == 0
    shuffled = [json.loads(line) for line in (tmp_path / "shuffled.jsonl").read_text().splitlines()]
    assert [row["id"] for row in shuffled] == [row["id"] for row in rows]
    assert all(row["prediction"] != f"answer {row['id']}" for row in shuffled)
    assert {row["prediction"] for row in shuffled} == {row["prediction"] for row in rows}


@pytest.mark.slow
def test_the_commands_of_the_page(stamps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tuxpaint_captions.main(["prepare", str(stamps), "--out", str(out)])
    arguments = [str(out / "train.json"), "--form", "coco_captions", "--images", str(stamps), "--num-workers", "1"]
    assert index.main([*arguments, "--out", str(out / "index")]) == 0
    settings = ["--config", str(out / "run.yaml"), "--out", str(out / "run"), "--freeze_encoder", "false"]
    steps = ["--optim.lr", "1e-3", "--num_steps", "2", "--num_workers", "0", "--device", "cpu"]
    assert finetune(["toy_vqa", *settings, *steps]) == 0
    asked = ["--benchmark", "coco_caption", "--data", str(out)]
    run = [str(out / "run" / "model"), *asked, "--tuned", "--device", "cpu", "--out", str(out / "scores")]
    assert evaluate(run) == 0
    predictions = out / "scores" / "coco_caption" / "predictions-0.jsonl"
    assert len(predictions.read_text().splitlines()) == len(BENCHMARKS["coco_caption"].open(out, "test").samples)
    shuffled = out / "shuffled.jsonl"
    tuxpaint_captions.main(["shuffle", str(predictions), str(shuffled)])
    assert evaluate([*asked, "--predictions", str(shuffled), "--out", str(out / "chance")]) == 0
    assert "CIDEr" in (out / "chance" / "results.md").read_text()
