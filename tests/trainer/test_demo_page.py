import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from demo_fakes import fake_demo, fake_evaluation
from trainer.demo_page import SECTIONS, Demo, render_page

VOID = {"meta", "img", "br", "line", "polyline", "rect", "circle", "link", "hr"}


class WellFormed(HTMLParser):
    """Every element that opens closes again, in order; counts the elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [value for name, value in attributes if name == "id" and value]
        self.links += [value for name, value in attributes if name in ("href", "src") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, self.getpos()


def parsed(page: str) -> WellFormed:
    parser = WellFormed()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def demo() -> Demo:
    return fake_demo(num_documents=2)


@pytest.fixture(scope="module")
def page(demo: Demo) -> str:
    return render_page(demo)


def test_the_page_is_well_formed_and_has_every_section(page: str) -> None:
    found = parsed(page)
    names = [name for name, _, _ in SECTIONS]
    assert found.ids == names
    assert [link for link in found.links if link.startswith("#")] == [f"#{name}" for name in names]
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # nothing of the template is left unfilled


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parsed(page).links)
    assert not re.search(r"https?:|@import|url\(|<script", page)


def test_text_of_the_model_is_shown_as_text(page: str) -> None:
    assert "the owl moves &lt;up&gt;" in page
    assert "toy_scratch &amp; &lt;so on&gt;" in page


def test_the_page_says_how_the_shipped_weights_were_made(page: str) -> None:
    origin = page[page.index('id="origin"') :]
    assert all(fact in origin for fact in ("main 12000", "61.5", "python -m trainer.pretrain toy_scratch"))


def test_scores_stand_beside_chance_and_those_of_a_model_without_mmfs(demo: Demo, page: str) -> None:
    score = demo.live.tasks["read"].scores["number"]
    assert (score.mean, score.num_documents) == (0.5, 2)
    [row] = re.findall(r"<tr[^>]*><td><span class=\"what\">Detail reading.*?</tr>", page)
    means = re.findall(r'class="score">(\d+) <small>', row)
    assert means == ["0", "50", "50"]  # without MMFS, shipped, live
    assert row.count(f'<b style="left:{100 * score.chance:.1f}%">') == 3
    assert "for 4,321 steps" in page
    assert "--bare &lt;true&gt;" in page
    chances = [score.chance for result in demo.live.tasks.values() for score in result.scores.values() if score.chance]
    assert chances
    assert all(f'<b style="left:{100 * chance:.1f}%">' in page for chance in chances)


def test_right_and_wrong_answers_are_marked(demo: Demo, page: str) -> None:
    for results in (demo.live, demo.shipped):
        assert [one.right for one in results.tasks["caption"].answered] == [False, True]
    gallery = page[page.index('id="gallery"') : page.index('id="stories"')]
    [live] = re.findall(r"emoji/caption/val/0", gallery)
    card = gallery[: gallery.index(live)].rpartition("<article")[2]
    assert card.count("✗") == 2
    assert card.count("✓") == 0
    in_all = 2 * 2 * len(demo.live.tasks)  # documents x weights x families
    assert gallery.count('class="mark') == in_all
    assert gallery.count('class="mark right"') == in_all / 2


def test_drawn_pictures_and_boxes_are_shown(demo: Demo, page: str) -> None:
    gallery = page[page.index('id="gallery"') : page.index('id="stories"')]
    assert gallery.count('alt="drawn by the model"') == 2 * 2 * 3
    assert gallery.count('alt="the truth"') == 2 * 3
    assert gallery.count('class="true"') == gallery.count('class="said"') == 2


def test_the_export_table_lists_each_component(page: str) -> None:
    section = page[page.index('id="export"') : page.index('id="origin"')]
    assert parsed(section[section.index("<div") : section.index("</section>")]).counts["tr"] == 3
    assert "3.4 MB" in section
    assert "2.4e-06" in section


def test_a_demo_that_began_with_random_weights_says_so(demo: Demo) -> None:
    page = render_page(replace(demo, shipped=None, without_mmfs=None, made_by=None, looks=(), stories=()))
    found = parsed(page)
    assert "from random weights" in page
    assert "shipped" not in page
    assert not {"looks", "stories"} & set(found.ids)


def test_a_family_that_was_not_examined_is_a_dash(demo: Demo) -> None:
    assert demo.without_mmfs is not None
    scores = {task: result for task, result in demo.without_mmfs.scores.items() if task != "read"}
    page = render_page(replace(demo, without_mmfs=replace(demo.without_mmfs, scores=scores)))
    [row] = re.findall(r"<tr[^>]*><td><span class=\"what\">Detail reading.*?</tr>", page)
    assert '<td class="score">–</td>' in row


def test_chance_of_a_single_document_is_unknown() -> None:
    alone = fake_evaluation("a", num_documents=1, every_wrong=2)
    assert {score.chance for result in alone.tasks.values() for score in result.scores.values()} == {None}
