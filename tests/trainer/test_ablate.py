import json
from dataclasses import replace

import pytest
import torch

from models import MMInterleaved
from trainer import ablate
from trainer.ablation.plan import STUDIES, WITH, WITHOUT, Arm, Plan, Run, Study
from trainer.ablation.runs import Bench
from trainer.ablation.scales import SCALES, Lesson, Scale
from trainer.ablation.starts import ENCODER, start_of
from trainer.errors import UsageError
from trainer.recipes import tiny
from trainer.run_files import MODEL

QUESTIONS = Lesson("questions", {"read": 1.0, "compare": 1.0}, 2, 1, 3, step_s=0.1, evaluation_s=1.0)
TINY = Scale(
    "tiny",
    tiny,
    {"questions": QUESTIONS},
    None,
    num_texts=3,
    num_images=1,
    num_drawing_steps=1,
    machine="any machine",
)
KEPT = Arm("kept", "kept", 0.0, keeps_language_model=True)
STUDY = Study("mine", "What sees more?", (WITHOUT, WITH, KEPT, Arm("one", "1 token", 0.3, 1)), ("questions",))


def command(monkeypatch, out, *options):
    monkeypatch.setitem(ablate.SCALES, "tiny", TINY)
    monkeypatch.setitem(ablate.STUDIES, "mine", STUDY)
    return ablate.main(["mine", "--scale", "tiny", "--seeds", "1", "--out", str(out), *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablate")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert command(monkeypatch, out, "--dry-run") == 0
        assert not any(out.iterdir())
        assert command(monkeypatch, out) == 0
    return out


@pytest.mark.slow
def test_a_table_of_all_arms_is_written(made):
    text = (made / "mine.md").read_text()
    assert "| task | score, per cent | chance | without MMFS | with MMFS | kept | 1 token | paper |" in text
    assert "4 of 4 runs; seeds 0" in text
    rows = json.loads((made / "mine.json").read_text())["rows"]
    found = {(row["task"], row["score"]): row for row in rows}
    assert set(found["read", "some_number"]["arms"]) == {"without", "with", "kept", "one"}
    assert found["read", "number"]["num_documents"] == 3


@pytest.mark.slow
def test_finished_runs_are_not_made_again(made, monkeypatch, capsys):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("model.safetensors")}
    assert command(monkeypatch, made) == 0
    assert {file: file.stat().st_mtime_ns for file in made.rglob("model.safetensors")} == before
    assert "== run" not in capsys.readouterr().out
    assert not list(made.rglob("questions/**/checkpoints"))


@pytest.mark.slow
def test_a_result_of_other_settings_is_refused(made):
    other = replace(QUESTIONS, num_rows=2)
    bench = Bench(replace(TINY, lessons={"questions": other}), made, made / ENCODER / MODEL)
    with pytest.raises(UsageError, match=r"data\.num_rows: 1 -> 2.*--out DIR"):
        bench.result(Run(WITH, other, 0, 2))


def test_a_pause_goes_on(tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path, "--minutes", "0.0001") == 0
    assert "The same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "questions").exists()


@pytest.mark.slow
def test_the_kept_language_model_is_that_of_the_run_without_mmfs(made):
    kept = Run(KEPT, QUESTIONS, 0, 2)
    one = MMInterleaved.from_pretrained(made / kept.place / MODEL)
    other = MMInterleaved.from_pretrained(made / kept.without_mmfs().place / MODEL)
    theirs = other.language_model.host.state_dict()
    mine = one.language_model.host.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not torch.equal(
        one.visual_tokenizer.resampler.output_proj.weight, other.visual_tokenizer.resampler.output_proj.weight
    )


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_arms_differ_in_what_they_are_about_alone(scale, tmp_path):
    for study in STUDIES.values():
        runs = Plan(study, scale, tuple(scale.lessons), 2).runs
        assert len({run.place for run in runs}) == len(runs)
        for run in runs:
            bench = Bench(scale, tmp_path, tmp_path / "encoder")
            mine, base = bench.training(run), bench.training(run.without_mmfs())
            assert (mine.seed, mine.num_steps, mine.optim, mine.freeze_encoder) == (
                base.seed,
                base.num_steps,
                base.optim,
                True,
            )
            assert replace(mine.data, row_tokens=1) == replace(base.data, row_tokens=1)
            assert mine.model.image_decoder.mmfs is None or run.arm.gate is not None
            assert (start_of(run, bench.encoder, tmp_path) == bench.encoder) == (
                run.arm.num_visual_tokens is None and not run.arm.keeps_language_model
            )


def test_the_plan_holds_the_wanted_lessons_and_steps(tmp_path, capsys):
    def planned(*options):
        assert ablate.main(["mmfs", "--seeds", "1", "--out", str(tmp_path), "--dry-run", *options]) == 0
        question, *runs, summary = capsys.readouterr().out.splitlines()
        assert question == STUDIES["mmfs"].question
        assert f", for {len(runs)} runs." in summary
        return runs

    lessons = SCALES["cpu"].lessons
    assert [run.split(":")[0] for run in planned()] == [
        f"  search, {arm.label}, seed 0, {lessons['search'].num_steps} steps" for arm in STUDIES["mmfs"].arms
    ]
    both = planned("--lessons", "questions", "label_map", "questions", "--budget", "0.5")
    assert len(both) == 4
    assert all(f"{lessons['questions'].num_steps // 2} steps" in run for run in both[:2])
    assert all(f"{lessons['label_map'].num_steps // 2} steps" in run for run in both[2:])


def test_three_seeds_of_the_mmfs_study_are_planned_for_forty_minutes():
    scale = SCALES["cpu"]
    assert sum(run.nominal_s(scale) for run in Plan(STUDIES["mmfs"], scale, ("search",), 3).runs) < 40 * 60


def test_plans_that_differ_have_tables_of_their_own():
    study, scale = STUDIES["mmfs"], SCALES["cpu"]
    assert Plan(study, scale, study.lessons, 3).name == "mmfs"
    assert Plan(study, scale, study.lessons, 3).command == "python -m trainer.ablate mmfs --scale cpu --seeds 3"
    other = Plan(study, scale, ("questions", "label_map"), 1, 1.5)
    assert other.name == "mmfs_questions_label_map_1.5x"
    assert other.command == (
        "python -m trainer.ablate mmfs --scale cpu --seeds 1 --lessons questions label_map --budget 1.5"
    )


def test_a_file_is_no_place_for_runs(tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.touch()
    assert ablate.main(["mmfs", "--out", str(file)]) == 2
    assert f"--out is {file}, which cannot be made a directory: File exists." in capsys.readouterr().err


def test_the_command_line_says_what_is_wrong(capsys):
    for wrong, sentence in (
        ("--seeds 0", "expected 1 or more"),
        ("--minutes 0", "expected a number above 0"),
        ("--lessons dancing", "dancing; expected some of search, search_images, questions, label_map."),
        ("--budget 0", "expected a number above 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            ablate.main(["mmfs", *wrong.split()])
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err
