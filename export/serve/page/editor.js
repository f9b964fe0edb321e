// One turn's editable text with images at the caret. What stands in the element is the truth; `parts()` reads it.

import { joined, moved } from "./document.js";
import { element } from "./dom.js";
import { imagePart, looksLikeImage } from "./images.js";

const INTERNAL = "application/x-mmfs-image";
const EDITS = /^(insertText|insertLineBreak|insertParagraph|insertReplacementText|insertCompositionText|insertFromComposition|delete|history)/;
let dragged = null; // the image that is dragged from one place of the page to another: {editor, node}

export class Editor {
  /**
   * `on`: {change(), openImage(node, index), clickImage(node, index, event), leave(index, "up" | "down"), error(sentence),
   * say(sentence)}.
   */
  constructor(name, parts, on) {
    this.on = on;
    this.element = element("div", {
      class: "text", contenteditable: "true", role: "textbox", "aria-multiline": "true", "aria-label": name, dir: "auto", spellcheck: "true",
      onbeforeinput: (event) => this.#beforeInput(event),
      oninput: () => this.on.change(),
      onkeydown: (event) => this.#key(event),
      onpaste: (event) => this.#paste(event),
      oncopy: (event) => this.#copy(event),
      oncut: (event) => this.#copy(event),
      ondragstart: (event) => this.#dragStart(event),
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => this.#drop(event),
      onclick: (event) => this.#click(event),
    });
    this.element.editor = this;
    this.show(parts);
  }

  /** Put these parts in place of what stands here. */
  show(parts) {
    this.element.replaceChildren(...parts.map((part) => (part.type === "text" ? document.createTextNode(part.text) : imageNode(part))));
    const last = parts.at(-1);
    if (last?.type === "text" && last.text.endsWith("\n")) this.element.append(element("br")); // else a last empty line is not shown
    this.#number();
  }

  /**
   * What stands here. At the end a browser shows an empty line only if two line breaks are there, so the last one is no part of
   * the text; `isTyped` is false while the model writes, whose every character counts.
   */
  parts({ isTyped = true } = {}) {
    let parts = [];
    const walk = (node) => {
      if (node.nodeType === Node.TEXT_NODE) parts.push({ type: "text", text: node.data });
      else if (node.imagePart) parts.push(node.imagePart);
      else if (node.nodeName === "BR") parts.push({ type: "text", text: "\n" });
      else node.childNodes.forEach(walk);
    };
    this.element.childNodes.forEach(walk);
    parts = joined(parts);
    const last = parts.at(-1);
    if (isTyped && last?.type === "text" && last.text.endsWith("\n")) last.text = last.text.slice(0, -1);
    return joined(parts);
  }

  images() {
    return [...this.element.querySelectorAll(".image")];
  }

  /** Whether nobody but the model writes here. */
  get locked() {
    return this.element.contentEditable === "false";
  }

  set locked(value) {
    this.element.contentEditable = value ? "false" : "true";
    this.element.setAttribute("aria-busy", value ? "true" : "false");
  }

  /** Insert image files at the caret, at `range`, or at the end. */
  async insertFiles(files, range = this.#caret()) {
    for (const file of files) {
      try {
        const node = imageNode(await imagePart(file));
        this.#insert(node, range);
        range = document.createRange();
        range.setStartAfter(node);
        range.collapse(true);
        this.on.say("Image inserted.");
      } catch (error) {
        this.on.error(error.message);
      }
    }
  }

  /** Change an image's text alternative. */
  describe(index, alt) {
    const node = this.images()[index];
    node.imagePart = { ...node.imagePart, alt };
    this.#number();
    this.on.change();
  }

  remove(index) {
    const node = this.images()[index];
    node.remove();
    this.focusEnd();
    this.#changed();
    this.on.say("Image removed.");
  }

  /** Move image `index` within the turn and keep the focus on it, or let it leave to the next one; see `moved`. */
  move(index, where) {
    const next = moved(this.parts(), index, where);
    if (next === null) {
      this.on.leave(index, where === "left" || where === "start" ? "up" : "down");
      return;
    }
    this.show(next.parts);
    this.images()[next.index].focus();
    this.#changed();
    this.on.say(where === "start" || where === "end" ? `Moved to the ${where}.` : `Moved ${where}.`);
  }

  focusEnd() {
    this.element.focus();
    const selection = getSelection();
    selection.selectAllChildren(this.element);
    selection.collapseToEnd();
  }

  #caret() {
    const selection = getSelection();
    if (!selection.rangeCount) return null;
    const range = selection.getRangeAt(0);
    return this.element.contains(range.commonAncestorContainer) ? range : null;
  }

  #insert(node, range) {
    if (range && this.element.contains(range.commonAncestorContainer)) {
      range.deleteContents();
      range.insertNode(node);
    } else this.element.append(node);
    const selection = getSelection();
    selection.setBaseAndExtent(node.parentNode, place(node) + 1, node.parentNode, place(node) + 1);
    this.#changed();
  }

  #changed() {
    this.#number();
    this.on.change();
  }

  /** Name the images for screen readers by their order. */
  #number() {
    this.images().forEach((node, index) => {
      const alt = node.imagePart.alt;
      node.setAttribute("aria-label", alt ? `Image ${index + 1}: ${alt}` : `Image ${index + 1}, not described`);
      node.firstChild.alt = alt;
    });
  }

  #beforeInput(event) {
    if (!EDITS.test(event.inputType)) event.preventDefault(); // bold, lists, pasted HTML: a document is texts and images
    if (event.inputType === "insertParagraph") {
      event.preventDefault();
      document.execCommand("insertLineBreak"); // what the browser does itself can be undone
    }
  }

  #key(event) {
    const node = event.target.closest(".image");
    if (!node) return;
    const index = this.images().indexOf(node);
    const where = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "start", ArrowDown: "end" }[event.key];
    if (event.altKey && where && !this.locked) {
      event.preventDefault();
      const rtl = getComputedStyle(this.element).direction === "rtl";
      this.move(index, rtl ? { left: "right", right: "left" }[where] ?? where : where);
    } else if ((event.key === "Enter" && !event.ctrlKey && !event.metaKey) || event.key === " ") {
      event.preventDefault();
      this.on.openImage(node, index);
    } else if ((event.key === "Delete" || event.key === "Backspace") && !this.locked) {
      event.preventDefault();
      this.remove(index);
    }
  }

  #click(event) {
    const node = event.target.closest(".image");
    if (node) {
      node.focus();
      this.on.clickImage(node, this.images().indexOf(node), event);
    }
  }

  async #paste(event) {
    event.preventDefault();
    const files = [...event.clipboardData.files].filter(looksLikeImage);
    if (files.length) await this.insertFiles(files);
    else insertText(event.clipboardData.getData("text/plain"));
  }

  /** Text alone, as it is: a browser would add its own markup. An image that is focused is copied by its dialog. */
  #copy(event) {
    if (event.target.closest?.(".image")) return;
    event.preventDefault();
    event.clipboardData.setData("text/plain", getSelection().toString());
    if (event.type === "cut") document.execCommand("delete");
  }

  #dragStart(event) {
    const node = event.target.closest?.(".image");
    if (!node) return;
    dragged = { editor: this, node };
    event.dataTransfer.setData(INTERNAL, "");
    event.dataTransfer.effectAllowed = "move";
  }

  async #drop(event) {
    const files = [...event.dataTransfer.files];
    if (files.length && !files.some(looksLikeImage)) return; // the page imports documents
    event.preventDefault();
    event.stopPropagation();
    if (this.locked) return;
    const range = rangeAt(event.clientX, event.clientY);
    if (event.dataTransfer.types.includes(INTERNAL) && dragged) {
      const { editor, node } = dragged;
      dragged = null;
      if (range && node.contains(range.startContainer)) return;
      const copy = imageNode(node.imagePart);
      this.#insert(copy, range);
      node.remove();
      editor.#changed();
      copy.focus();
    } else if (files.length) await this.insertFiles(files.filter(looksLikeImage), range);
    else {
      const text = event.dataTransfer.getData("text/plain");
      this.element.focus();
      if (range) getSelection().setBaseAndExtent(range.startContainer, range.startOffset, range.startContainer, range.startOffset);
      insertText(text);
    }
  }
}

/** Insert text at the caret as if it was typed, so that it can be undone. */
function insertText(text) {
  text.split(/\r\n?|\n/).forEach((line, index) => {
    if (index) document.execCommand("insertLineBreak");
    if (line) document.execCommand("insertText", false, line);
  });
}

/** The place in the text under a point of the window. */
export function rangeAt(x, y) {
  if (document.caretPositionFromPoint) {
    const at = document.caretPositionFromPoint(x, y);
    if (!at) return null;
    const range = document.createRange();
    range.setStart(at.offsetNode, at.offset);
    return range;
  }
  return document.caretRangeFromPoint?.(x, y) ?? null;
}

/** An image in the text: one character for the caret, a button for the keyboard. */
export function imageNode(part) {
  const node = element(
    "span",
    { class: "image", contenteditable: "false", tabindex: "0", role: "button", draggable: "true", "aria-haspopup": "dialog",
      "aria-keyshortcuts": "Enter Alt+ArrowLeft Alt+ArrowRight Alt+ArrowUp Alt+ArrowDown Delete" },
    element("img", { src: part.url, alt: part.alt, draggable: "false" }),
  );
  node.imagePart = part;
  return node;
}

const place = (node) => [...node.parentNode.childNodes].indexOf(node);
