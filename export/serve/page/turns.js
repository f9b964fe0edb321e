// The turns as they are shown: each an editor with its actions, its versions and its figures.

import { isEmpty, partsOf, shown } from "./document.js";
import { button, element, toolbar } from "./dom.js";
import { Editor, imageNode } from "./editor.js";
import { cutSentence, described, ending } from "./figures.js";

const WHO = { user: "You", assistant: "Model" };

export class TurnView {
  /** `on`: what `Editor` needs, with this view as first argument, and {continue, regenerate, fork, remove, version}(view). */
  constructor(turn, number, on) {
    this.turn = turn;
    this.on = on;
    const who = WHO[turn.role];
    this.editor = new Editor(`${who === "You" ? "Your turn" : "The model's turn"}, ${number}`, partsOf(turn), {
      change: () => this.#changed(),
      openImage: (node, index) => on.openImage(this, node, index),
      clickImage: (node, index, event) => on.clickImage(this, node, index, event),
      leave: (index, where) => on.leave(this, index, where),
      error: on.error,
      say: on.say,
    });
    this.versions = element("span", { class: "versions" });
    this.foot = element("div", { class: "foot" });
    this.element = element(
      "article",
      { class: `turn ${turn.role}`, "aria-label": `Turn ${number}, ${who === "You" ? "yours" : "the model's"}` },
      element("div", { class: "head" }, element("span", { class: "who" }, who), this.versions, this.#actions(number)),
      this.editor.element,
      this.foot,
    );
    this.showMade();
    this.#markEmpty();
  }

  #actions(number) {
    const act = (name, symbol, run) => button(name, { icon: symbol, quiet: true, onclick: () => run(this) });
    const isModels = this.turn.role === "assistant";
    return toolbar(`Turn ${number}`, [
      act(isModels ? "Continue this turn" : "Let the model go on from here", "continue", this.on.continue),
      ...(isModels ? [act("Regenerate with a new seed", "regenerate", this.on.regenerate)] : []),
      act("Fork: a new document up to here", "fork", this.on.fork),
      act("Remove this turn", "remove", this.on.remove),
    ]);
  }

  #changed() {
    const version = shown(this.turn);
    version.parts = this.editor.parts();
    if (version.made) version.made.edited = 1;
    this.#markEmpty();
    this.on.change(this);
  }

  #markEmpty() {
    this.editor.element.classList.toggle("empty", isEmpty(this.turn));
    this.editor.element.dataset.hint = this.on.hint(this.turn);
  }

  /** Show the version that is chosen. */
  showVersion() {
    this.editor.show(partsOf(this.turn));
    this.showMade();
    this.#markEmpty();
  }

  /** The figures of this version, why it ended, and the way to the other versions. */
  showMade() {
    const { made } = shown(this.turn);
    const notes = made ? [ending(made), cutSentence(made)].filter(Boolean) : [];
    const figures = made ? described(made) : [];
    this.foot.replaceChildren(
      ...notes.map((note) => element("p", { class: "note" }, note)),
      figures.length
        ? element("dl", { class: "figures" }, ...figures.map(([name, value, meaning]) => element("div", { title: meaning }, element("dt", {}, name), element("dd", {}, value))))
        : "",
    );
    const { versions, at } = this.turn;
    const step = (name, symbol, by) =>
      button(name, { icon: symbol, quiet: true, disabled: !versions[at + by], onclick: () => this.on.version(this, at + by) });
    this.versions.replaceChildren(
      ...(versions.length > 1 ? [step("Earlier version", "earlier", -1), element("span", {}, `${at + 1} of ${versions.length}`), step("Later version", "later", 1)] : []),
    );
  }

  // While the model writes.

  /** Keep the end of what is written in sight, unless the reader has scrolled away from it. */
  #follow() {
    const dock = document.querySelector(".dock").getBoundingClientRect().top;
    const { bottom } = this.element.getBoundingClientRect();
    if (!this.isFollowed || bottom <= dock) return;
    scrollBy(0, bottom - dock + 8);
  }

  begin() {
    this.isFollowed = true;
    this.unfollow = () => (this.isFollowed = false);
    for (const kind of ["wheel", "touchmove"]) addEventListener(kind, this.unfollow, { passive: true, once: true });
    this.editor.locked = true;
    const last = this.editor.element.lastChild;
    if (last?.nodeName === "BR") last.remove(); // it held an empty last line open
    this.element.classList.add("writing");
    this.editor.element.classList.remove("empty");
    this.foot.replaceChildren();
    this.#follow();
  }

  addText(text) {
    const into = this.editor.element;
    if (into.lastChild?.nodeType === Node.TEXT_NODE) into.lastChild.appendData(text);
    else into.append(document.createTextNode(text));
    this.#follow();
  }

  showPreview(url) {
    if (!this.preview) {
      this.preview = element("span", { class: "image preview", contenteditable: "false" }, element("img", { alt: "An image that is being drawn" }));
      this.editor.element.append(this.preview);
    }
    this.preview.firstChild.src = url;
    this.#follow();
  }

  addImage(part) {
    const node = imageNode(part);
    if (this.preview) this.preview.replaceWith(node);
    else this.editor.element.append(node);
    this.preview = null;
  }

  end() {
    this.preview?.remove();
    this.preview = null;
    for (const kind of ["wheel", "touchmove"]) removeEventListener(kind, this.unfollow);
    this.editor.locked = false;
    this.element.classList.remove("writing");
    shown(this.turn).parts = this.editor.parts({ isTyped: false });
    this.showVersion(); // names its images
  }
}
