import re
from dataclasses import replace

import pytest

from trainer.demo.content import Demo
from trainer.demo.page import SECTIONS, render_page
from well_formed import parsed


@pytest.fixture(scope="module")
def page(demo: Demo) -> str:
    return render_page(demo)


def test_the_page_is_well_formed_and_has_every_section(page: str) -> None:
    found = parsed(page)
    names = [name for name, _, _ in SECTIONS]
    assert [name for name in found.ids if name in names] == names
    assert len(set(found.ids)) == len(found.ids)
    links = [link for link in found.links if link.startswith("#")]
    assert [link for link in dict.fromkeys(links) if link != "#scores"] == [
        f"#{name}" for name in names if name != "scores"
    ]
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # nothing of the template is left unfilled


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parsed(page).links)
    assert not re.search(r"https?:|@import|url\((?!#)|<script\s|\bimport\b.*from|fetch\(", page)


def test_text_of_the_model_is_shown_as_text(page: str) -> None:
    assert "the owl moves &lt;up&gt;" in page
    assert "toy_scratch &amp; &lt;so on&gt;" in page


def test_a_demo_that_began_with_random_weights_says_so(demo: Demo) -> None:
    page = render_page(
        replace(demo, shipped=None, without_mmfs=None, made_by=None, located_answers=(), stories=(), label_maps=())
    )
    found = parsed(page)
    assert "from random weights" in page
    assert "shipped" not in page
    assert not {"number", "images", "box", "caption", "stories", "maps"} & set(found.ids)


def test_it_begins_with_a_question_to_step_through(page: str) -> None:
    assert page.index('<section id="number">') < page.index('class="located"') < page.index("<nav")
    assert page.index("<nav") < page.index('<section id="images">')
