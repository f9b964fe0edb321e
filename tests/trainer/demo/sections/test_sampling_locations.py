import re
from dataclasses import replace

import pytest

from trainer.demo.content import Demo
from trainer.demo.sections.sampling_locations import section


def test_the_area_of_a_dot_is_its_share_of_the_attention(demo: Demo) -> None:
    [sampled] = demo.sampled_images
    points = ((0.25, 0.5, 0.4), (0.75, 0.5, 0.1), (1.2, 0.5, 0.3))
    shown = section(replace(demo, sampled_images=(replace(sampled, points=points),)))
    dots = re.findall(r'<circle cx="(.*?)" cy="(.*?)" r="(.*?)"/>', shown)
    assert [dot[:2] for dot in dots] == [("0.250", "0.500"), ("0.750", "0.500")], "what lies outside is not drawn"
    large, small = (float(radius) - 0.004 for _, _, radius in dots)  # 0.004: what a dot without attention has
    assert large == pytest.approx(2 * small)
    assert "which number?<br><b>37</b>" in shown


def test_a_model_that_looks_nowhere_has_no_section(demo: Demo) -> None:
    assert section(replace(demo, sampled_images=())) == ""
