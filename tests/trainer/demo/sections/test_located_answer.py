import re
from dataclasses import replace

import pytest

from trainer.demo.content import Demo, LocatedAnswer
from trainer.demo.sections.located_answer import located_answer, right_answer, rules
from trainer.evaluation.grading import Answered
from well_formed import parsed


def located(demo: Demo, task: str, number: int = 0) -> LocatedAnswer:
    return [one for one in demo.located_answers if one.answered.document.task == task][number]


def test_the_area_of_a_dot_is_its_share_of_the_attention(demo: Demo) -> None:
    one = located(demo, "read_steps")
    word = replace(one.words[0], points=(((0.25, 0.5, 0.04), (0.75, 0.5, 0.01)),))
    shown = located_answer(replace(one, words=(word,)), "a", None)
    [drawn] = re.findall(r'<g class="dots">(.*?)</g>', shown)
    dots = re.findall(r'<circle cx="(.*?)" cy="(.*?)" r="(.*?)"/>', drawn)
    assert [dot[:2] for dot in dots] == [("0.250", "0.500"), ("0.750", "0.500")]
    large, small = (float(radius) - 0.003 for _, _, radius in dots)  # 0.003: what a dot without attention has
    assert large == pytest.approx(2 * small, rel=1e-2)
    lights = [float(opacity) for opacity in re.findall(r'r="0.11" opacity="(.*?)"', shown)]
    assert lights[0] == pytest.approx(4 * lights[1], rel=0.05)


@pytest.mark.parametrize("task", ["read_steps", "compare_steps"])
def test_each_word_has_its_dots_and_its_share_of_each_image(demo: Demo, task: str) -> None:
    one = located(demo, task)
    shown = located_answer(one, "a", None)
    assert len(set(parsed(shown).ids)) == len(parsed(shown).ids)
    num_images = len(one.words[0].points)
    for number, word in enumerate(one.words):
        layers = re.findall(rf'<g class="step word{number}">(.*?)</g>(?:<rect class="frame"|</g>)', shown)
        assert len(layers) == num_images
        for layer, points in zip(layers, word.points, strict=True):
            assert layer.count("<circle") == 2 * len(points)  # a light and a dot
        share = f'<span class="step word{number}">{100 * word.shares[0]:.0f} %</span>'
        assert shown.count(share) == (num_images if num_images > 1 else 0)
        assert f".located:has(.word{number} :checked) .step.word{number}{{" in rules(len(one.words))
    assert "<span>&lt;top&gt;</span>" in shown
    assert shown.count(" checked>") == 1


def test_the_answer_stands_out_from_the_search_before_it(demo: Demo) -> None:
    one = located(demo, "read_steps", 1)  # right
    shown = located_answer(one, "a", None)
    answers = re.findall(r'<label class="word\d+ answer">.*?<span>(.*?)</span>', shown)
    assert answers == [right_answer(one.answered.document)]
    assert re.fullmatch(r"\d+", answers[0])
    assert "answer" not in "".join(
        re.findall(r'<label class="(.*?)"', located_answer(located(demo, "caption"), "a", None))
    )


def test_right_and_wrong_are_told_with_what_is_right(demo: Demo) -> None:
    wrong, right = (located(demo, "read_steps", number) for number in (0, 1))
    assert f"wrong; right is {right_answer(wrong.answered.document)}" in located_answer(wrong, "a", None)
    document = right.answered.document
    shown = located_answer(right, "a", Answered(document, "top <b>: 0", {"number": 0.0}))
    with_mmfs, _, without = shown.partition('<div class="bare">')
    assert "✓" in with_mmfs
    assert "✗" not in with_mmfs
    assert "top &lt;b&gt;: 0" in without
    assert f"wrong; right is {right_answer(document)}" in without


def test_boxes_come_with_the_last_word(demo: Demo) -> None:
    one = located(demo, "ground_steps")
    shown = located_answer(one, "a", None)
    assert shown.count('<rect class="true"') == shown.count('<rect class="said"') == 1
    assert f'<g class="step word{len(one.words) - 1}"><rect class="true"' in shown


def test_an_image_is_described(demo: Demo) -> None:
    one = located(demo, "read_steps")
    [facts] = one.answered.document.truth["images"]
    alt = re.search(r'alt="(.*?)"', located_answer(one, "a", None))
    assert alt is not None
    for thing in facts["objects"]:
        assert f"{thing['name']} with number {thing['number']}" in alt[1]


def test_an_answer_without_a_word_is_nothing(demo: Demo) -> None:
    one = replace(located(demo, "ground_steps"), words=())
    shown = located_answer(one, "a", None)
    parsed(shown)
    assert "<i>nothing</i>" in shown
