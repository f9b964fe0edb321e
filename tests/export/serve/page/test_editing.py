"""A document of texts and images: put in, moved, described, taken out; turns that are edited, forked, removed."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Page, expect

from image_urls import image_at
from page_documents import Open, image, models, parts_of, text, yours

PUT_IN = """([kind, url, words]) => {
    const editor = [...document.querySelectorAll(".text")].at(-1);
    const given = new DataTransfer();
    const bytes = Uint8Array.from(atob(url.split(",")[1] ?? ""), c => c.charCodeAt(0));
    if (url) given.items.add(new File([bytes], "noise.png", {type: "image/png"}));
    if (words) { given.setData("text/plain", words); given.setData("text/html", `<b>${words}</b>`); }
    const {left, bottom} = editor.getBoundingClientRect();
    const at = {bubbles: true, cancelable: true, clientX: left + 2, clientY: bottom - 4};
    const paste = new ClipboardEvent("paste", {clipboardData: given, ...at});
    editor.dispatchEvent(kind === "paste" ? paste : new DragEvent("drop", {dataTransfer: given, ...at}));
}"""
"""What a browser does when a person pastes or drops, at the caret or at the beginning of the last line."""


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_images_come_in_at_the_caret_by_paste_by_drop_and_from_a_file(open_page: Open, data_url: str) -> None:
    page = open_page()
    page.click(".text")
    page.keyboard.type("left right")
    press(page, *["ArrowLeft"] * 5)
    page.evaluate(PUT_IN, ["paste", data_url, ""])
    expect(page.locator(".image")).to_have_count(1)
    assert parts_of(page, 0) == ["left ", "[noise]", "right"]
    page.keyboard.type("and ")
    assert parts_of(page, 0) == ["left ", "[noise]", "and right"]
    page.evaluate(PUT_IN, ["paste", "", "two\r\nlines "])
    assert parts_of(page, 0) == ["left ", "[noise]", "and two\nlines right"], "as text, without its markup"
    page.evaluate(PUT_IN, ["drop", data_url, ""])
    expect(page.locator(".image")).to_have_count(2)
    assert parts_of(page, 0) == ["left ", "[noise]", "and two\n", "[noise]", "lines right"]
    page.set_input_files("#image-files", files=[{"name": "no.png", "mimeType": "image/png", "buffer": b"not an image"}])
    expect(page.locator(".notice.error")).to_contain_text('"no.png" is not an image that this browser can read.')
    assert len(parts_of(page, 0)) == 5


def test_an_image_of_a_type_that_the_server_does_not_read_becomes_one_that_it_does(
    open_page: Open, picture: Image.Image
) -> None:
    page = open_page()
    file = io.BytesIO()
    picture.save(file, "BMP")
    page.set_input_files("#image-files", [{"name": "b.bmp", "mimeType": "image/bmp", "buffer": file.getvalue()}])
    expect(page.locator(".image")).to_have_count(1)
    read = image_at(page.locator(".image img").get_attribute("src") or "")
    assert read.convert("RGB").tobytes() == picture.tobytes()


def test_enter_makes_a_line_and_undo_takes_it_back(open_page: Open) -> None:
    page = open_page()
    page.click(".text")
    page.keyboard.type("one")
    press(page, "Enter")
    page.keyboard.type("two")
    press(page, "Control+B")
    page.keyboard.type("!")
    assert parts_of(page, 0) == ["one\ntwo!"]
    assert page.locator(".text b").count() == 0
    press(page, "Enter", "Enter")
    assert parts_of(page, 0) == ["one\ntwo!\n\n"]
    press(page, "Control+Z")  # how much of it at once is the browser's business
    [left] = parts_of(page, 0)
    assert left.startswith("one\ntwo")
    assert len(left) < len("one\ntwo!\n\n")


def test_an_image_is_moved_described_and_removed_with_the_keyboard(open_page: Open, data_url: str) -> None:
    page = open_page([yours(text("a snail on")), models(text(" green "), image(data_url, "i"), text("grass it is"))])
    page.locator(".image").focus()
    press(page, "Alt+ArrowRight")
    assert parts_of(page, 1) == [" green grass", "[i]", " it is"]
    press(page, "Alt+ArrowLeft", "Alt+ArrowLeft")
    assert parts_of(page, 1) == [" ", "[i]", "green grass it is"]
    press(page, "Alt+ArrowUp")
    assert parts_of(page, 1) == ["[i]", " green grass it is"]
    press(page, "Alt+ArrowUp")
    assert (parts_of(page, 0), parts_of(page, 1)) == (["a snail on", "[i]"], [" green grass it is"])
    press(page, "Alt+ArrowDown")
    assert (parts_of(page, 0), parts_of(page, 1)) == (["a snail on"], ["[i]", " green grass it is"])
    press(page, "Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_label("Description")).to_be_focused()
    press(page, "End")
    page.keyboard.type("mage of noise")
    press(page, "Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert parts_of(page, 1)[0] == "[image of noise]"
    expect(page.locator(".image")).to_be_focused()
    press(page, "Delete")
    assert parts_of(page, 1) == [" green grass it is"]


def test_turns_are_edited_forked_and_removed_and_come_back(open_page: Open) -> None:
    page = open_page([yours(text("first")), models(text(" answer")), yours(text("second")), models(text(" more"))])
    page.locator(".text").nth(1).click()
    press(page, "End")
    page.keyboard.type(" changed")
    assert parts_of(page, 1) == [" answer changed"]
    page.get_by_role("toolbar", name="Turn 3").get_by_role("button", name="Remove this turn").click()
    expect(page.locator(".turn")).to_have_count(4)  # and an empty one to write in
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".turn")).to_have_count(5)
    assert parts_of(page, 2) == ["second"]
    page.get_by_role("toolbar", name="Turn 2").get_by_role("button", name="Fork").click()
    expect(page.locator(".turn")).to_have_count(3)
    assert [parts_of(page, turn) for turn in range(3)] == [["first"], [" answer changed"], []]
    page.click("#open-history")
    expect(page.locator(".documents li")).to_have_count(2)
    page.locator(".documents .entry:not([aria-current])").click()
    expect(page.locator(".turn")).to_have_count(5)
