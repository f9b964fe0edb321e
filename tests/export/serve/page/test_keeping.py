"""What is kept: in the browser, as files, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import expect

from page_documents import Open, answer_with, downloaded, file_of, image, models, parts_of, text, yours

HOSTILE = "</article><script>alert(1)</script> & <b>"


def test_a_document_goes_out_as_json_and_comes_in_again(open_page: Open, data_url: str) -> None:
    page = open_page([yours(text(HOSTILE), image(data_url, '"a" <b>')), models(text(" answer"))], mode="text", top_k=3)
    saved = downloaded(page, "#save-json").read_bytes()
    again = open_page()
    again.set_input_files("#json-files", files=[{"name": "s.json", "mimeType": "application/json", "buffer": saved}])
    expect(again.locator(".turn")).to_have_count(3)
    assert [parts_of(again, turn) for turn in range(2)] == [[HOSTILE, '["a" <b>]'], [" answer"]]
    assert again.locator("#mode :checked").input_value() == "text"
    again.click("#open-options")
    assert again.get_by_label("top k").input_value() == "3"
    assert again.locator(".turn script, .turn b").count() == 0


def test_the_html_file_holds_all_text_as_text(open_page: Open, data_url: str) -> None:
    page = open_page([yours(text(HOSTILE), image(data_url, '"a" <b>')), models(text("\n answer"))])
    page.fill("#title", "<i>title")
    file = downloaded(page, "#save-html")
    seen = page.context.new_page()
    seen.set_content(file.read_text(encoding="utf-8"))
    assert seen.locator("article").evaluate_all("all => all.map(one => one.textContent)") == [HOSTILE, "\n answer"]
    assert seen.locator("h1").text_content() == "<i>title"
    assert seen.locator("img").get_attribute("alt") == '"a" <b>'
    assert seen.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert seen.locator("script, b, i").count() == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", '"bad.json" is not JSON.'),
        (b"[1]", '"bad.json" holds no documents of this page.'),
        (b'{"format": "mmfs-documents", "version": 2}', "has version 2 of the format; this page reads version 1."),
        (file_of({"turns": 3})["buffer"], 'Document 1 of "bad.json" has no list of turns. Nothing was imported.'),
        (
            file_of({"turns": [yours(image("data:image/svg+xml;base64,AAAA"))]})["buffer"],
            "neither a text nor a PNG, JPEG, WebP or GIF as a data URL",
        ),
        (file_of({"turns": [yours(image("https://example.org/a.png"))]})["buffer"], "with a part that is neither"),
    ],
)
def test_files_that_are_something_else_are_refused(open_page: Open, content: bytes, sentence: str) -> None:
    page = open_page([yours(text("kept"))])
    page.set_input_files("#json-files", files=[{"name": "bad.json", "mimeType": "application/json", "buffer": content}])
    expect(page.locator(".notice.error")).to_contain_text(sentence)
    assert parts_of(page, 0) == ["kept"]


def test_the_history_outlives_the_page_is_searched_exported_and_emptied(open_page: Open) -> None:
    page = open_page([yours(text("a snail on grass"))])
    page.set_input_files("#json-files", files=[file_of({"title": "Ships", "turns": [yours(text("a rocket"))]})])
    expect(page.locator("#title")).to_have_value("Ships")
    page.click("#open-history")
    names = page.locator(".entry .name")
    expect(names).to_have_count(2)
    page.reload()
    expect(page.locator("#title")).to_have_value("Ships")
    assert parts_of(page, 0) == ["a rocket"]
    page.click("#open-history")
    page.get_by_role("searchbox").fill("GRASS snail")
    expect(names).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    with open(download.value.path(), encoding="utf-8") as file:
        assert len(json.load(file)["documents"]) == 2
    page.get_by_role("button", name='Delete "a snail on grass"').click()
    expect(names).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(names).to_have_count(1)


def test_the_commands_ask_for_the_same(open_page: Open, data_url: str) -> None:
    page = open_page([yours(image(data_url), text(" it's \\ \u2028 a"))], mode="text", max_new_tokens=3, seed=4)
    answer_with(page, {"content": "unused"})
    page.click("#open-menu")
    page.click("#copy-curl")
    curl = page.get_by_role("textbox", name="As curl").input_value()
    answer = json.loads(subprocess.run(["bash", "-c", curl], capture_output=True, check=True, timeout=60).stdout)
    page.keyboard.press("Escape")
    page.click("#open-menu")
    page.click("#copy-python")
    program = page.get_by_role("textbox", name="As Python").input_value()
    run: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer["usage"]["completion_tokens"] == 3
    assert run.stdout.rstrip("\n") == answer["choices"][0]["message"]["content"]
