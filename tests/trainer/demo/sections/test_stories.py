from dataclasses import replace

from trainer.demo.content import Demo
from trainer.demo.sections.stories import section


def test_what_the_model_made_is_marked(demo: Demo) -> None:
    told = section(demo)
    before, image, said = told.split("<figure>")
    assert "panel told" in before
    assert "<span>" in image
    assert '<div class="made"><img' in image
    assert '<span class="made">the owl moves &lt;up&gt;</span>' in said


def test_without_stories_there_is_no_section(demo: Demo) -> None:
    assert section(replace(demo, stories=())) == ""
