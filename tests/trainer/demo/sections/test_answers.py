import re
from dataclasses import replace

from trainer.demo.content import Demo
from trainer.demo.sections.answers import box, caption, number, several_images, styles
from well_formed import parsed


def test_each_example_can_be_chosen_and_the_first_is(demo: Demo) -> None:
    for section, task in (
        (number, "read_steps"),
        (several_images, "compare_steps"),
        (box, "ground_steps"),
        (caption, "caption"),
    ):
        shown = section(demo)
        parsed(shown)
        assert shown.count('<article class="located">') == 2
        choices = re.findall(rf'<label class="choice(\d)"><input type="radio" name="{task}"( checked)?', shown)
        assert choices == [("0", " checked"), ("1", "")]
        for place in "01":
            assert f'<div class="chosen{place}"><article' in shown
            assert f".choices:has(.choice{place} :checked) .chosen{place}{{display:block}}" in styles(demo)


def test_it_says_how_often_such_answers_are_right_beside_the_model_without_mmfs(demo: Demo) -> None:
    shown = number(demo)
    assert re.findall(r"<dt>(.*?)</dt><dd>(\d+) %</dd>", shown) == [("this model", "50"), ("trained without MMFS", "0")]
    assert "Share of 2 held-out examples: exact number" in shown
    alone = number(replace(demo, without_mmfs=None))
    assert re.findall(r"<dt>(.*?)</dt>", alone) == ["this model"]
    assert 'class="bare"' not in alone
    assert "without MMFS" not in alone


def test_what_the_model_without_mmfs_wrote_is_graded_like_other_answers(demo: Demo) -> None:
    assert demo.without_mmfs is not None
    first, second = (one.answered.document for one in demo.located_answers[:2])
    answers = {first.key: first.truth["answer"], second.key: "no idea"}
    shown = number(replace(demo, without_mmfs=replace(demo.without_mmfs, answers=answers)))
    bare = re.findall(r'<div class="bare">(.*?)</div>', shown)
    assert ["✓" in one for one in bare] == [True, False]
    assert "no idea" in bare[1]


def test_a_model_that_looks_nowhere_has_no_section(demo: Demo) -> None:
    assert number(replace(demo, located_answers=())) == ""
