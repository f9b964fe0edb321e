"""Send, stop, continue, regenerate: what the page asks of the server, and what it shows of the answer."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Page, Route, expect

from live_server import LiveServer
from models import MMInterleaved
from page_documents import Open, answer_with, image, models, parts_of, text, yours

DRAWING = yours(text("a big snail on a blue background"))


def sent_by(page: Page) -> list[dict[str, Any]]:
    """The requests from now on."""
    bodies: list[dict[str, Any]] = []

    def keep(route: Route) -> None:
        bodies.append(json.loads(route.request.post_data or ""))
        route.continue_()

    page.route("**/v1/chat/completions", keep)
    return bodies


def test_a_document_is_sent_in_order_and_continued_as_the_library_does(
    open_page: Open, toy: MMInterleaved, picture: Any, data_url: str
) -> None:
    page = open_page([yours(text("this "), image(data_url, "noise"), text(" is"))], mode="text", max_new_tokens=8)
    bodies = sent_by(page)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".assistant .figures")).to_contain_text("tokens/s")
    expected = toy.generate(["this ", picture, " is"], mode="text", max_new_tokens=8).text
    assert parts_of(page, 1) == [expected]
    [body] = bodies
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "image_url", "text"]
    assert body["messages"][0]["content"][1]["image_url"]["url"] == data_url, "sent as it was given"
    assert body["max_tokens"] == 8
    assert body["modalities"] == ["text"]
    expect(page.locator(".assistant .note")).to_have_text(
        "It ended at the limit on new tokens. Continue goes on from here."
    )
    page.locator(".assistant").hover()
    page.get_by_role("button", name="Continue this turn").click()
    expect(page.locator("#stop")).to_be_hidden()
    expected = toy.generate(["this ", picture, " is", expected], mode="text", max_new_tokens=8).text
    assert "".join(parts_of(page, 1)).endswith(expected)
    assert bodies[1]["messages"][1]["role"] == "assistant", "it goes on with its own turn"


def test_an_image_is_drawn_with_previews_and_progress_and_again_with_another_seed(open_page: Open) -> None:
    page = open_page([DRAWING], mode="image", num_inference_steps=8)
    bodies = sent_by(page)
    seen = page.evaluate_handle(
        """() => { const seen = {values: new Set(), texts: new Set(), previews: 0};
            new MutationObserver(() => {
                seen.values.add(document.querySelector("#progress").value);
                seen.texts.add(document.querySelector("#status-text").textContent);
                const previews = document.querySelectorAll(".preview img[src^='data:image']").length;
                seen.previews = Math.max(seen.previews, previews);
            }).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
            return seen; }"""
    )
    page.click("#generate")
    expect(page.locator(".assistant .figures")).to_contain_text("an image")
    assert parts_of(page, 1) == ["[]"]
    assert page.evaluate("seen => seen.previews", seen) == 1
    assert any(
        re.search(r"Drawing image 1: step \d of 8.* so far", one) for one in page.evaluate("s => [...s.texts]", seen)
    )
    first = page.locator(".assistant img").get_attribute("src")
    page.locator(".assistant").hover()
    page.get_by_role("button", name="Regenerate with a new seed").click()
    expect(page.locator(".assistant .versions")).to_contain_text("2 of 2")
    expect(page.locator("#stop")).to_be_hidden()
    assert bodies[1]["seed"] != bodies[0].get("seed")
    assert len(bodies[1]["messages"]) == 1, "without the version before"
    assert page.locator(".assistant img").get_attribute("src") != first
    page.get_by_role("button", name="Earlier version").click()
    assert page.locator(".assistant img").get_attribute("src") == first


def test_stop_works_before_the_first_token(open_page: Open) -> None:
    page = open_page([yours(text("a snail"))])
    asked: list[Route] = []
    page.route("**/v1/chat/completions", lambda route: asked.append(route))  # and never answered
    page.keyboard.press("Control+Enter")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#status-text")).to_contain_text("Reading the document")
    page.keyboard.press("Escape")
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator(".assistant")).to_have_count(0)
    expect(page.locator(".notice.error")).to_have_count(0)
    assert asked


def test_stop_in_a_drawing_reaches_the_server_and_keeps_what_was_there(open_page: Open, server: LiveServer) -> None:
    page = open_page([DRAWING, models(text(" as asked:"))], mode="image", num_inference_steps=200)
    seen = page.evaluate_handle(  # in the page, since the drawing may end before a test has looked and clicked
        """() => { const seen = {}, stop = document.querySelector("#stop");
            new MutationObserver((_, observer) => {
                if (!document.querySelector("#status-text").textContent.includes("step")) return;
                observer.disconnect();
                seen.visible = stop.checkVisibility();
                stop.click();
            }).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
            return seen; }"""
    )
    page.click("#generate")
    assert page.wait_for_function("seen => 'visible' in seen && seen", arg=seen).evaluate("seen => seen.visible")
    server.wait_until(lambda: server.is_idle)
    assert parts_of(page, 1) == [" as asked:"]
    expect(page.locator(".preview")).to_have_count(0)


def test_what_the_model_writes_is_text_and_never_html(open_page: Open) -> None:
    page = open_page([yours(text("go on"))])
    bad = "<img src=x onerror='document.title=1'><script>document.title=2</script>&amp; <b>bold</b>"
    answer_with(page, {"content": bad[:20]}, {"content": bad[20:]}, newline="\r\n")
    page.click("#generate")
    expect(page.locator(".assistant .figures")).to_be_visible()
    assert parts_of(page, 1) == [bad]
    assert page.locator(".assistant .text").evaluate("node => node.childElementCount") == 0
    assert page.title().startswith("go on <img")


def test_refusals_are_sentences_with_what_to_do(open_page: Open) -> None:
    page = open_page([yours(text("a snail"))])
    error = page.locator(".notice.error p")

    def refuse(status: int, message: str, **headers: str) -> None:
        page.unroute_all()
        body = json.dumps({"error": {"message": message}})
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body, headers=headers))
        page.click("#generate")

    refuse(429, "All places are taken.", **{"Retry-After": "7"})
    expect(error).to_have_text("All places are taken. Your document is kept here; try again in 7 s.")
    refuse(401, "The request has no valid API key.")
    page.get_by_role("button", name="Enter the key").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.unroute_all()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.click("#generate")
    expect(error).to_contain_text("The server does not answer.")
    answer_with(page, {"content": "a start"}, end="")
    page.get_by_role("button", name="Try again").click()
    expect(error).to_contain_text("The connection ended before the answer did.")
    assert parts_of(page, 1) == ["a start"], "what had arrived is kept"
    page.unroute_all()
    page.locator("#open-options").click()
    page.locator("#open-options").click()
    page.get_by_label("temperature").fill("0")
    page.evaluate("document.querySelector('#option-num_inference_steps').max = 1e9")
    page.get_by_label("top p").fill("0.5")
    page.get_by_label("task").select_option("caption")
    page.keyboard.press("Control+Enter")
    expect(error).to_contain_text("expected what fills the prompt")  # the server's own sentence
