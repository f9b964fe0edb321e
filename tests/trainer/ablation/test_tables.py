from trainer.ablation.measures import Level
from trainer.ablation.plan import STUDIES, WITH, WITHOUT, Run
from trainer.ablation.runs import Result
from trainer.ablation.scales import CPU
from trainer.ablation.tables import markdown, rows

STUDY = STUDIES["mmfs"]


def result(score):
    return Result({}, {}, {"read": {"some_number": Level(score, 0.04, 96)}}, 60.0, 50.0, {})


def runs(*scores_by_arm):
    lesson = CPU.lessons["questions"]
    return {
        Run(arm, lesson, seed, 10): result(score)
        for arm, scores in zip((WITHOUT, WITH), scores_by_arm, strict=True)
        for seed, score in enumerate(scores)
    }


def test_mean_and_spread_over_seeds():
    [row] = rows(STUDY, runs((0.02, 0.04, 0.03), (0.9, 0.8, 0.7)))
    assert (row["task"], row["score"], row["chance"]) == ("read", "some_number", 4)
    assert row["arms"]["with"]["mean"] == 80
    assert round(row["arms"]["with"]["standard_deviation"], 9) == 10
    assert row["arms"]["without"]["by_seed"] == {"0": 2, "1": 4, "2": 3}


def test_a_table_shows_what_is_there():
    text = markdown(STUDY, rows(STUDY, runs((0.02,), (0.9, 0.8))), ["a fact"])
    assert "| Detail reading | some number of the image | 4 | 2.0 | 85.0 ± 7.1 |  |" in text
    assert text.endswith("\n\n* a fact\n")
    assert "Label map" not in text
