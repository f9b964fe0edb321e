import re
from dataclasses import replace

import pytest

from trainer.demo.content import Demo
from trainer.demo.sections.sampling_locations import section
from well_formed import parsed


def test_the_area_of_a_dot_is_its_share_of_the_attention(demo: Demo) -> None:
    [located] = demo.located_answers
    points = ((0.25, 0.5, 0.4), (0.75, 0.5, 0.1))
    word = replace(located.words[0], points=(points,))
    shown = section(replace(demo, located_answers=(replace(located, words=(word,)),)))
    dots = re.findall(r'<circle cx="(.*?)" cy="(.*?)" r="(.*?)"/>', shown)
    assert [dot[:2] for dot in dots] == [("0.250", "0.500"), ("0.750", "0.500")]
    large, small = (float(radius) - 0.004 for _, _, radius in dots)  # 0.004: what a dot without attention has
    assert large == pytest.approx(2 * small, rel=1e-2)


def test_each_word_has_its_dots_its_share_and_its_rule(demo: Demo) -> None:
    shown = section(demo)
    parsed(shown)
    [located] = demo.located_answers
    for number, word in enumerate(located.words):
        dots = re.search(rf'<g class="step word{number}">(.*?)</g>', shown)
        assert dots is not None
        assert dots[1].count("<circle") == len(word.points[0])
        assert f'<span class="step word{number}">{100 * word.shares[0]:.0f} %</span>' in shown
        assert f".located:has(label.word{number}:hover) .step.word{number}," in shown
    assert "<span>&lt;middle&gt;:</span>" in shown
    assert shown.count(" checked>") == 1


def test_a_model_that_looks_nowhere_has_no_section(demo: Demo) -> None:
    assert section(replace(demo, located_answers=())) == ""
