from dataclasses import replace

from trainer.demo.content import Demo
from trainer.demo.sections.told import label_maps, stories


def test_what_the_model_made_is_marked_and_plans_stand_apart(demo: Demo) -> None:
    before, image, said = stories(demo).split("<figure>")
    assert "panel told" in before
    assert '<span class="">' in image
    assert '<span class="made plan">top left owl</span>' in image
    assert "step by step" not in image
    assert "<div class=made><img" in image
    assert '<span class="made">the owl moves &lt;up&gt;</span>' in said
    assert '<span class="made plan">top owl</span>' in said


def test_a_drawn_label_map_stands_beside_the_truth(demo: Demo) -> None:
    shown = label_maps(demo)
    assert shown.count("<figure>") == 3
    assert '<span class="made plan">03 banana</span>' in shown
    assert shown.count('alt="the truth"') == 1
    [told] = demo.label_maps
    assert 'alt="the truth"' not in label_maps(replace(demo, label_maps=(replace(told, written=(" 03",)),)))


def test_without_any_there_is_no_section(demo: Demo) -> None:
    assert stories(replace(demo, stories=())) == ""
    assert label_maps(replace(demo, label_maps=())) == ""
