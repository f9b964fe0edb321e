import re
from dataclasses import replace

from trainer.demo.content import Demo
from trainer.demo.sections.scores import section


def test_scores_stand_beside_chance_and_those_of_a_model_without_mmfs(demo: Demo) -> None:
    table = section(demo)
    score = demo.live.tasks["read"].scores["number"]
    assert (score.mean, score.num_documents) == (0.5, 2)
    [row] = re.findall(r"<tr[^>]*><td><span class=\"what\">Detail reading</span>.*?</tr>", table)
    means = re.findall(r'class="score">(\d+) <small>', row)
    assert means == ["0", "50", "50"]  # without MMFS, shipped, live
    assert row.count(f'<b style="left:{100 * score.chance:.1f}%">') == 3
    assert "for 4,321 steps" in table
    chances = [score.chance for result in demo.live.tasks.values() for score in result.scores.values() if score.chance]
    assert chances
    assert all(f'<b style="left:{100 * chance:.1f}%">' in table for chance in chances)


def test_a_family_that_was_not_examined_is_a_dash(demo: Demo) -> None:
    assert demo.without_mmfs is not None
    scores = {task: result for task, result in demo.without_mmfs.scores.items() if task != "read"}
    table = section(replace(demo, without_mmfs=replace(demo.without_mmfs, scores=scores)))
    [row] = re.findall(r"<tr[^>]*><td><span class=\"what\">Detail reading</span>.*?</tr>", table)
    assert '<td class="score">–</td>' in row
