import re

from trainer.demo.content import Demo
from trainer.demo.sections.gallery import section
from trainer.evaluation.tasks import EVALUATION_TASKS


def test_right_and_wrong_answers_are_marked(demo: Demo) -> None:
    for results in (demo.live, demo.shipped):
        assert [one.right for one in results.tasks["caption"].answered] == [False, True]
    gallery = section(demo)
    [live] = re.findall(r"emoji/caption/val/0", gallery)
    card = gallery[: gallery.index(live)].rpartition("<article")[2]
    assert card.count("✗") == 2
    assert card.count("✓") == 0
    in_all = 2 * 2 * len(demo.live.tasks)  # documents x weights x families
    assert gallery.count('class="mark') == in_all
    assert gallery.count('class="mark right"') == in_all / 2


def test_drawn_images_and_boxes_are_shown(demo: Demo) -> None:
    gallery = section(demo)
    num_families = sum(EVALUATION_TASKS[task].kind == "image" for task in demo.live.tasks)
    boxes = [task for task in demo.live.tasks if task.startswith("ground")]
    assert gallery.count('alt="drawn by the model"') == 2 * 2 * num_families
    assert gallery.count('alt="the truth"') == 2 * num_families
    assert gallery.count('class="true"') == gallery.count('class="said"') == 2 * len(boxes)
