"""The page as a whole: its size, its names for screen readers, its keys, colours and widths, its security policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from live_server import LiveServer
from page_documents import Open, image, models, parts_of, text, yours

PAGE = Path(__file__).parents[4] / "export/serve/page"
MOST_BYTES = 150_000
NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, [role], meter, progress, img")]
    .filter(one => one.checkVisibility({visibilityProperty: true}) && !one.closest("[aria-hidden=true]"))
    .filter(one => !["status", "alert"].includes(one.role ?? one.getAttribute("role")))
    .filter(one => {
        const ids = one.getAttribute("aria-labelledby")?.split(" ") ?? [];
        const labels = [...(one.labels ?? []), ...ids.map(id => document.getElementById(id))];
        if (one.nodeName === "IMG") return !one.hasAttribute("alt");
        const texts = [...labels, ...(one.nodeName === "BUTTON" ? [one] : [])].map(label => label.textContent);
        return ![one.getAttribute("aria-label"), ...texts].join("").trim();
    }).map(one => one.outerHTML.slice(0, 200))"""


def test_the_page_is_small() -> None:
    files = [file for file in PAGE.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".html", ".css", ".js", ".svg", ".png"}
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_every_control_has_a_name(open_page: Open, data_url: str) -> None:
    page = open_page([yours(text("a"), image(data_url)), models(text(" b"), image(data_url))])
    assert page.evaluate(NAMELESS) == []
    for panel in ("history", "options", "locations"):
        page.click(f"#open-{panel}")
        expect(page.locator(f"#panel.{panel}")).to_be_visible()
        assert page.evaluate(NAMELESS) == []
    page.click("#open-menu")
    assert page.evaluate(NAMELESS) == []
    page.click("#show-keys")
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Escape")
    page.locator(".image").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate(NAMELESS) == []


def test_a_whole_round_with_the_keyboard_alone(open_page: Open) -> None:
    page = open_page()

    def tab_to(selector: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        pytest.fail(f"{selector} is not reached with the Tab key")

    tab_to(".skip")
    page.keyboard.press("Enter")
    tab_to(".example")
    page.keyboard.press("Enter")
    expect(page.locator(".user .text")).to_have_text("a rocket left of a guitar on a blue background")
    expect(page.locator(".user .text")).to_be_focused()
    tab_to("#mode input")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#mode :checked").input_value() == "text"
    tab_to("#generate")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#generate")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    assert (
        page.locator(":focus").evaluate("one => getComputedStyle(one.closest('label, button')).outlineStyle")
        is not None
    )
    page.locator(".text").first.focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Let the model go on from here").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Fork").first).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("The turn is removed.")


def test_dark_light_and_the_switch(open_page: Open) -> None:
    page = open_page(context={"color_scheme": "dark"})

    def brightness() -> float:
        return page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
        )

    assert brightness() < 150
    page.get_by_role("button", name="Theme: as the system").click()
    assert brightness() > 600
    page.reload()
    assert brightness() > 600, "the switch is remembered"
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert brightness() < 150


def test_360_pixels_hold_everything(open_page: Open, data_url: str) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 3
    page = open_page(
        [yours(text(long), image(data_url)), models(text(" b"))], context={"viewport": {"width": 360, "height": 640}}
    )
    check_fit(page)
    for panel in ("history", "options", "locations"):
        page.click(f"#open-{panel}")
        check_fit(page)
    page.click("#close-panel")
    page.click("#new")
    expect(page.locator(".example").first).to_be_visible()
    check_fit(page)
    page.click(".example >> nth=1")
    expect(page.locator(".image")).to_be_visible()
    page.locator(".image").click()
    check_fit(page)


def check_fit(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    outside = """() => [...document.querySelectorAll("button, input, select")].filter(one => one.checkVisibility())
        .filter(one => !one.closest(".skip") && !one.matches("[type=radio]"))
        .filter(one => { const {left, right} = one.getBoundingClientRect(); return left < 0 || right > 360.5; })
        .map(one => one.outerHTML.slice(0, 120))"""
    assert page.evaluate(outside) == []


def test_the_security_policy_holds_and_the_page_keeps_within_it(open_page: Open, server: LiveServer) -> None:
    policy = server.ask("GET", "/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data: blob:;")
    page = open_page([yours(text("a"))])
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert " on" + "click=" not in html
    assert parts_of(page, 0) == ["a"]


def test_text_goes_in_its_own_direction_and_nothing_moves_where_that_is_not_wanted(open_page: Open) -> None:
    page = open_page([yours(text("שלום עולם")), models(text(" left"))], context={"reduced_motion": "reduce"})
    directions = page.locator(".text").evaluate_all("all => all.map(one => getComputedStyle(one).direction)")
    assert directions[:2] == ["rtl", "ltr"]
    moving = """() => [...document.querySelectorAll("*")]
        .filter(one => getComputedStyle(one).animationName !== "none").length"""
    assert page.evaluate(moving) == 0


def test_a_server_that_is_still_loading_is_waited_for(browser: Browser, server: LiveServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    is_loading = True

    def props(route: Route) -> None:
        body = json.dumps({"error": {"message": "The model is being loaded."}})
        route.fulfill(status=503, body=body) if is_loading else route.continue_()

    page.route("**/v1/mmfs/props", props)
    page.goto(f"http://127.0.0.1:{server.port}/")
    expect(page.locator(".notice.error")).to_contain_text("The server is still loading its model.")
    page.locator(".text").fill("a snail")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".notice.error")).to_contain_text("Wait until it has loaded its model.")
    is_loading = False
    expect(page.locator("#model")).to_have_text("toy")
    expect(page.locator(".notice")).to_have_count(0)
    assert parts_of(page, 0) == ["a snail"]
    context.close()
