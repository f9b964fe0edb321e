"""Where the model looked: for a word at the caret, under the pointer, and for a place of a drawn image."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from models import MMInterleaved
from page_documents import Open, image, parts_of, text, yours


def test_a_word_shows_where_the_library_says_it_looked(
    open_page: Open, toy: MMInterleaved, picture: Any, data_url: str
) -> None:
    page = open_page([yours(image(data_url, "noise"), text(" a photo of"))], mode="text", max_new_tokens=8)
    page.click("#generate")
    expect(page.locator(".assistant .figures")).to_be_visible()
    [written] = parts_of(page, 1)
    page.click("#open-locations")
    page.locator(".assistant .text").click()
    page.keyboard.press("Home")
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Control+ArrowRight")  # behind the second word
    result = toy.generate([picture, " a photo of"], mode="text", max_new_tokens=8, sampling_locations=True)
    assert result.text == written
    assert result.sampling_locations is not None
    subject = page.locator(".subject strong")
    first, word = re.findall(r"\w+", written)[:2]
    expect(subject).to_have_text(word)
    start = written.index(word, written.index(first) + len(first))
    looked = result.sampling_locations.of_text(start, start + len(word))
    expect(page.locator("#announcements")).to_contain_text(f"“{word}” looked")
    [share, nowhere] = page.locator("meter").evaluate_all("all => all.map(one => one.value)")
    assert share == pytest.approx(looked.share(0), abs=1e-3)
    assert share + nowhere == pytest.approx(1, abs=1e-3)
    dots = page.locator(".looked circle")
    expect(dots).not_to_have_count(0)
    everything = dots.count()
    assert page.locator(".user circle").count() == everything, "on the image in the document too"
    page.get_by_label("head").fill("2")
    expect(page.locator(".looked circle").first).to_be_visible()
    assert 0 < page.locator(".looked circle").count() < everything
    weights, nulls = looked.attention_weights, looked.null_weights
    of_head = sum(float(layer[0, 1].sum()) for layer in weights) / len(weights)
    [share, nowhere] = page.locator("meter").evaluate_all("all => all.map(one => one.value)")
    assert share == pytest.approx(of_head, abs=2e-3)
    assert nowhere == pytest.approx(sum(float(layer[1]) for layer in nulls) / len(nulls), abs=2e-3)
    page.locator(".assistant .text").click()
    page.keyboard.press("Home")
    page.keyboard.type("x")
    expect(page.locator("#panel")).to_contain_text("changed since")
    expect(page.locator(".user circle")).to_have_count(0)


def test_a_place_of_a_drawn_image_shows_where_it_looked_and_moves_by_keys(open_page: Open, data_url: str) -> None:
    page = open_page([yours(image(data_url, "noise"), text(" a snail"))], mode="image", num_inference_steps=3)
    page.click("#generate")
    expect(page.locator(".assistant .figures")).to_be_visible()
    page.locator(".assistant .image").click()
    page.get_by_role("dialog").get_by_role("button", name="Where it looked").click()
    expect(page.locator(".looked circle")).not_to_have_count(0)
    assert page.get_by_label("across").input_value() == "0.5"
    box = page.locator(".assistant .image").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    expect(page.get_by_label("across")).not_to_have_value("0.5")
    assert float(page.get_by_label("across").input_value()) == pytest.approx(0.25, abs=0.02)
    page.get_by_label("down").focus()
    before = page.locator(".looked svg").inner_html()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("down")).to_be_focused()
    expect(page.locator(".assistant .place")).to_have_count(1)
    page.wait_for_load_state("networkidle")
    expect(page.locator(".looked circle")).not_to_have_count(0)
    assert page.locator(".looked svg").inner_html() != before
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    expect(page.locator("#turns svg.dots")).to_have_count(0)
