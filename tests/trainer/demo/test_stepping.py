"""The page in a browser: stepping through the words of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from trainer.demo.content import Demo
from trainer.demo.page import render_page

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def file(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("demo") / "index.html"
    file.write_text(render_page(demo), encoding="utf-8")
    return file


@pytest.fixture
def open_page(browser: Browser, file: Path) -> Iterator[Open]:
    """Open the page without a network. What it complains about, or asks for, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(**options: Any) -> Page:
        context = browser.new_context(
            **{"reduced_motion": "reduce", "viewport": {"width": 1200, "height": 800}, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.clock.install(time=0)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda said: complaints.append(said.text))
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url != file.as_uri() else None)
        page.goto(file.as_uri())
        page.clock.pause_at(3_600_000)  # from here on the tests alone let time pass
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [one for one in complaints if not one.startswith("data:")] == []


def first(page: Page) -> Locator:
    """The answer that the page begins with."""
    return page.locator(".located").first


def chosen(answer: Locator) -> int:
    """The word that is chosen: it alone is highlighted, and the image shows what belongs to it and nothing else."""
    number, shown, highlighted = answer.evaluate(
        """answer => {
            const words = [...answer.querySelectorAll(".words label")];
            const plain = getComputedStyle(document.body).color;
            const steps = [...answer.querySelectorAll(".step")];
            const isShown = step => getComputedStyle(step).display !== "none";
            const isPlain = word => getComputedStyle(word.querySelector("span")).color === plain;
            return [
                words.findIndex(word => word.querySelector("input").checked),
                [...new Set(steps.filter(isShown).map(step => step.getAttribute("class")))],
                words.flatMap((word, place) => isPlain(word) ? [] : [place]),
            ];
        }"""
    )
    assert shown == [f"step word{number}"]
    assert highlighted == [number]
    return number


def test_buttons_and_arrow_keys_step_through_the_words(open_page: Open, demo: Demo) -> None:
    page = open_page()
    answer, last = first(page), len(demo.located_answers[0].words) - 1
    assert chosen(answer) == last, "the whole answer is shown at first"
    before, after = (answer.get_by_role("button", name=name) for name in ("Previous word", "Next word"))
    before.click()
    before.click()
    assert chosen(answer) == last - 2
    after.press("ArrowRight")
    assert chosen(answer) == last - 1
    after.click()
    after.click()
    assert chosen(answer) == last, "there is no word after the last one"
    answer.locator(".words label").first.click()
    assert chosen(answer) == 0
    page.keyboard.press("ArrowRight")
    assert chosen(answer) == 1
    before.click()
    before.click()
    assert chosen(answer) == 0


def test_play_writes_the_answer_word_by_word_and_can_be_paused(open_page: Open, demo: Demo) -> None:
    page = open_page()
    answer, last = first(page), len(demo.located_answers[0].words) - 1
    play = answer.locator(".play")
    play.click()
    expect(play).to_have_text("Pause")
    assert chosen(answer) == 0
    page.clock.run_for(1400)
    assert chosen(answer) == 2
    play.click()
    page.clock.run_for(5000)
    assert chosen(answer) == 2
    play.click()
    page.clock.run_for(60_000)
    assert chosen(answer) == last
    expect(play).to_have_text("Play")


def test_the_first_answer_is_written_at_once_unless_motion_is_unwelcome(open_page: Open) -> None:
    expect(first(open_page(reduced_motion="no-preference")).locator(".play")).to_have_text("Pause")
    expect(first(open_page()).locator(".play")).to_have_text("Play")


def test_another_example_takes_the_place_of_the_first(open_page: Open) -> None:
    page = open_page()
    answers = page.locator("#number .located")
    expect(answers.nth(0)).to_be_visible()
    expect(answers.nth(1)).to_be_hidden()
    page.locator("#number .choice1").click()
    expect(answers.nth(0)).to_be_hidden()
    expect(answers.nth(1)).to_be_visible()


def test_words_can_be_chosen_without_the_script(open_page: Open) -> None:
    answer = first(open_page(java_script_enabled=False))
    expect(answer.locator(".stepper")).to_be_hidden()
    label = answer.locator(".words label").first
    label.click()
    expect(answer.locator(".looked .word0")).to_be_visible()
    expect(answer.locator(".looked .word1")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_both_colour_schemes(open_page: Open, scheme: str) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    text, ground = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    lightness = [int(colour.removeprefix("rgb(").partition(",")[0]) for colour in (text, ground)]
    assert (lightness[0] < lightness[1]) == (scheme == "light")
    image = first(page).locator("img").first.bounding_box()
    assert image is not None
    assert image["width"] > 280
