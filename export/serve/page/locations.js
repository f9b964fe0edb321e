// Where the model looked: for a word that it wrote or a place in an image that it drew, the sampling locations of MMFS.
//
// A version of a turn keeps `recorded`: for each answer in it {response, start, text, images, drawn, firstDrawn}. `start` and
// `text` say which characters of the turn the answer wrote, `images` are marks of all images that it could see, oldest
// first, `drawn` how many of them it drew itself, and `firstDrawn` the number in the turn of the first of these.

import { say } from "./announce.js";
import { shown, textOf } from "./document.js";
import { element, svg } from "./dom.js";
import { colourOf, dots } from "./dots.js";
import { rangeAt } from "./editor.js";
import { panelButton } from "./panel.js";
import { charactersBefore, characters, wordAt } from "./words.js";
import { getJSON } from "./wire.js";

const HOVER_MS = 60;
const CACHED = 200;
const HIGHLIGHT = "looking";

const markOf = (image) => `${image.url.length}:${image.url.slice(-40, -8)}`;
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

export class LocationsPanel {
  /** `page`: {turns() -> all turns in order, nodes() -> [{turn, node}] of all images in order, turnOf(node), can() -> bool}. */
  constructor(page) {
    this.page = page;
    this.pinned = null; // what was clicked, or is at the caret
    this.target = null; // what is shown: that, or what the pointer is over
    this.filter = { layer: 0, head: 0, level: 0 }; // 0: all of them
    this.isRecording = true;
    this.answers = new Map();
    this.panel = panelButton("locations", "Where it looked", (body) => this.#fill(body), () => this.#unmark());
    document.addEventListener("selectionchange", () => this.panel.isOpen() && this.#atCaret());
    const turns = document.querySelector("#turns");
    let last = "";
    turns.addEventListener("pointermove", (event) => {
      const at = `${event.clientX} ${event.clientY}`;
      if (at === last || !this.panel.isOpen() || event.pointerType !== "mouse" || event.buttons) return; // what moved is the page
      last = at;
      clearTimeout(this.hovering);
      this.hovering = setTimeout(() => this.#show(this.#wordUnder(event) ?? this.pinned), HOVER_MS);
    });
    turns.addEventListener("pointerleave", () => {
      clearTimeout(this.hovering);
      if (this.panel.isOpen()) this.#show(this.pinned);
    });
  }

  /** Whether the next request is to be recorded. */
  wanted() {
    return this.isRecording && this.page.can();
  }

  /** Remember what an answer wrote into a turn, behind the `start` characters and `firstDrawn` images that it had. */
  keep(turn, { response, start, firstDrawn, text, images, drawn }) {
    const version = shown(turn);
    version.recorded = [...(version.recorded ?? []), { response, start, firstDrawn, text, images: [...images, ...drawn].map(markOf), drawn: drawn.length }];
  }

  isOpen() {
    return this.panel.isOpen();
  }

  refresh() {
    this.panel.refill();
  }

  clear() {
    this.pinned = this.target = null;
    this.#unmark();
    this.panel.refill();
  }

  /** A place in an image that the model drew; nothing where it did not, or it was not recorded. Returns whether it was. */
  choosePlace(node, x, y) {
    const place = this.#drawnBy(node);
    if (!place) return false;
    this.panel.show();
    this.pinned = { ...place, kind: "place", node, x, y };
    this.#show(this.pinned);
    return true;
  }

  canShow(node) {
    return this.#drawnBy(node) !== null;
  }

  #drawnBy(node) {
    const turn = this.page.turnOf(node);
    if (!turn) return null;
    const index = this.page.nodes().filter((one) => one.turn === turn).findIndex((one) => one.node === node);
    const record = (shown(turn).recorded ?? []).find((one) => index >= one.firstDrawn && index < one.firstDrawn + one.drawn);
    if (!record) return null;
    const drawnAs = record.images.length - record.drawn + index - record.firstDrawn;
    if (record.images[drawnAs] !== markOf(node.imagePart)) return null; // moved, or another one
    return { turn, record, drawing: index - record.firstDrawn };
  }

  #atCaret() {
    const selection = getSelection();
    if (!selection.rangeCount) return;
    const target = this.#word(selection.anchorNode, selection.anchorOffset);
    if (!target) return;
    clearTimeout(this.hovering);
    this.pinned = target;
    this.#show(target);
  }

  #wordUnder(event) {
    const range = event.target.closest?.(".assistant .text") && rangeAt(event.clientX, event.clientY);
    return range ? this.#word(range.startContainer, range.startOffset) : null;
  }

  /** The word at a place of a turn of the model, if it stands there as it was written. */
  #word(node, offset) {
    const text = node?.nodeType === Node.TEXT_NODE && node.parentElement.closest(".text");
    const turn = text && this.page.turnOf(text);
    if (turn?.role !== "assistant") return null;
    const found = wordAt(node.data, offset);
    if (!found) return null;
    const start = charactersBefore(text, node, found[0]);
    const word = node.data.slice(...found);
    const end = start + characters(word);
    const target = { kind: "word", turn, word, node, found };
    const all = [...textOf(turn)];
    const record = (shown(turn).recorded ?? []).find((one) => {
      const length = characters(one.text);
      return start >= one.start && end <= one.start + length && all.slice(one.start, one.start + length).join("") === one.text;
    });
    return record ? { ...target, record, start: start - record.start, end: end - record.start } : { ...target, record: null };
  }

  async #show(target) {
    if (this.target === target) return;
    this.target = target;
    this.#mark(target);
    if (!target?.record) {
      this.looked = null;
      this.#draw();
      return;
    }
    const query =
      target.kind === "word" ? `text?start=${target.start}&end=${target.end}` : `images/${target.drawing}?x=${target.x.toFixed(4)}&y=${target.y.toFixed(4)}`;
    try {
      const [answer, looked] = await Promise.all([this.#ask(target.record.response), this.#ask(`${target.record.response}/${query}`)]);
      if (this.target !== target) return;
      this.looked = { answer, looked };
      this.#draw();
      if (target === this.pinned) say(this.#sentence());
    } catch (error) {
      if (this.target !== target) return;
      this.looked = null;
      this.#draw(error.message);
    }
  }

  #ask(path) {
    if (!this.answers.has(path)) {
      if (this.answers.size >= CACHED) this.answers.delete(this.answers.keys().next().value);
      const asked = getJSON(`mmfs/sampling_locations/${path}`);
      asked.catch(() => this.answers.delete(path));
      this.answers.set(path, asked);
    }
    return this.answers.get(path);
  }

  // What is chosen by the sliders.

  #layers() {
    const { layers } = this.looked.looked;
    return this.filter.layer ? layers.slice(this.filter.layer - 1, this.filter.layer) : layers;
  }

  #pointsOf(image) {
    const { head, level } = this.filter;
    const points = this.#layers().flatMap((layer) => layer.images.filter((one) => one.image === image).flatMap((one) => one.points));
    return points.filter((point) => (!head || point[3] === head - 1) && (!level || point[4] === level - 1));
  }

  /** The shares of the chosen layers and heads, over all levels: {images: Map of number to share, nowhere}. */
  #shares() {
    const { head } = this.filter;
    const layers = this.#layers();
    const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / (numbers.length || 1);
    const images = new Map(this.looked.looked.shares.map(({ image }) => [image, 0]));
    for (const layer of layers) {
      const heads = head ? 1 : layer.num_heads;
      for (const { image, points } of layer.images) {
        const sum = points.filter((point) => !head || point[3] === head - 1).reduce((total, point) => total + point[2], 0);
        images.set(image, images.get(image) + sum / heads / layers.length);
      }
    }
    const nowhere = mean(layers.map((layer) => (head ? layer.null_weights[head - 1] : mean(layer.null_weights))));
    return { images, nowhere };
  }

  #name() {
    return this.target.kind === "word" ? `“${this.target.word}”` : "This place of the image";
  }

  #sentence() {
    const { images, nowhere } = this.#shares();
    const parts = [...images].map(([image, share]) => `${percent(share)} at image ${image + 1}`);
    return `${this.#name()} looked ${[...parts, `${percent(nowhere)} nowhere`].join(", ")}.`;
  }

  // The panel.

  #fill(body) {
    this.body = body;
    this.#draw();
    if (!this.target) this.#atCaret();
  }

  #draw(problem = null) {
    this.#unlay();
    if (!this.body || !this.panel.isOpen()) return;
    const record = element("input", { type: "checkbox", id: "record" });
    record.checked = this.isRecording;
    record.addEventListener("change", () => (this.isRecording = record.checked));
    const setting = this.page.can()
      ? element("div", { class: "check note" }, record, element("label", { for: "record" }, "Record this while the model writes (about a tenth more time)"))
      : element("p", { class: "note" }, "This server does not record where its model looks.");
    const focused = this.body.contains(document.activeElement) ? document.activeElement.id : null;
    this.body.replaceChildren(...(this.looked && this.target ? this.#figures() : [this.#hint(problem)]), setting);
    if (focused) document.querySelector(`#${focused}`)?.focus();
  }

  #hint(problem) {
    if (problem) return element("p", { class: "note" }, problem);
    if (this.target && !this.target.record) {
      return element("p", { class: "note" }, `“${this.target.word}” was not recorded: it was written without recording, or changed since. Regenerate the turn to see where the model looks.`);
    }
    return element("p", { class: "note" }, "Point at a word that the model wrote, or put the caret into it. In an image that it drew, click a place.");
  }

  #figures() {
    const { answer } = this.looked;
    const { images: shares, nowhere } = this.#shares();
    const seen = this.#seen();
    const points = new Map([...shares.keys()].map((image) => [image, this.#pointsOf(image)]));
    const most = Math.max(1e-9, ...[...points.values()].flat().map((point) => point[2]));
    const figures = [...shares].map(([image, share]) => {
      const node = seen[image];
      const layer = { points: points.get(image), box: answer.images[image]?.box, most };
      if (node) this.#lay(node, layer);
      return element(
        "figure",
        {},
        node ? this.#copy(node, layer) : element("p", { class: "note" }, "This image was changed or removed since."),
        element("figcaption", { class: "share" }, element("span", {}, `Image ${image + 1}`), element("span", {}, percent(share)), meter(share, `Share of image ${image + 1}`)),
      );
    });
    return [
      ...this.#subject(),
      figures.length ? element("div", { class: "looked" }, ...figures) : element("p", { class: "note" }, "There is no image before it to look at."),
      element("div", { class: "share" }, element("span", {}, "Nowhere"), element("span", {}, percent(nowhere)), meter(nowhere, "Share of nowhere")),
      ...this.#sliders(),
      element("p", { class: "note" }, "Each dot is a sampling point: its area is its weight, its colour the attention head. Shares are means over the chosen layers and heads."),
    ];
  }

  /** The images of the document by the server's numbers; undefined where another one stands there now. */
  #seen() {
    const { record, turn } = this.target;
    const nodes = this.page.nodes();
    const before = nodes.filter((one) => one.turn !== turn && this.page.turns().indexOf(one.turn) < this.page.turns().indexOf(turn));
    const own = nodes.filter((one) => one.turn === turn);
    const visible = [...before, ...own.slice(0, record.firstDrawn + record.drawn)].map((one) => one.node);
    const cut = record.images.length - this.looked.answer.images.length; // the oldest, which did not fit
    const unchanged = (mark, node) => (node && markOf(node.imagePart) === mark ? node : undefined);
    return record.images.slice(cut).map((mark, index) => unchanged(mark, visible[index + cut]));
  }

  #subject() {
    if (this.target.kind === "word") return [element("p", { class: "subject", dir: "auto" }, element("strong", {}, this.target.word), " looked at")];
    const move = (axis) => ({ target }) => {
      this.pinned = { ...this.target, [axis]: Number(target.value) };
      this.#show(this.pinned);
    };
    return [
      element("p", { class: "subject" }, "This place of the drawn image looked at"),
      ...[["x", "across"], ["y", "down"]].map(([axis, name]) =>
        element("div", { class: "slider" }, element("label", { for: `place-${axis}` }, name), element("input", { type: "range", id: `place-${axis}`, min: 0, max: 1, step: 0.02, value: this.target[axis], oninput: move(axis) }), element("output", { for: `place-${axis}` }, percent(this.target[axis]))),
      ),
    ];
  }

  #sliders() {
    const { layers } = this.looked.looked;
    const heads = Math.max(...layers.map((layer) => layer.num_heads));
    const levels = Math.max(...layers.map((layer) => layer.num_levels));
    const slider = (name, count, tell) => {
      const id = `look-${name}`;
      this.filter[name] = Math.min(this.filter[name], count);
      const input = element("input", {
        type: "range", id, min: 0, max: count, step: 1, value: this.filter[name], "aria-valuetext": tell(this.filter[name]),
        oninput: () => {
          this.filter[name] = Number(input.value);
          this.#draw();
        },
      });
      return element("div", { class: "slider" }, element("label", { for: id }, name), input, element("output", { for: id, title: tell(this.filter[name]) }, tell(this.filter[name])));
    };
    return [
      slider("layer", layers.length, (value) => (value ? layers[value - 1].name : `all ${layers.length}`)),
      slider("head", heads, (value) => (value ? `${value} of ${heads}` : `all ${heads}`)),
      slider("level", levels, (value) => (value ? `${value} of ${levels}` : `all ${levels}`)),
      element("div", { class: "heads", "aria-hidden": "true" }, ...Array.from({ length: heads }, (_, head) => element("span", {}, svg("svg", { viewBox: "0 0 2 2" }, svg("circle", { cx: 1, cy: 1, r: 1, fill: colourOf(head) })), `head ${head + 1}`))),
    ];
  }

  #copy(node, layer) {
    const image = element("img", { src: node.imagePart.url, alt: node.imagePart.alt });
    const box = element("span", { class: "image" }, image);
    image.decode().catch(() => {}).then(() => box.append(dots(image, layer)));
    return box;
  }

  /** Dots on the image in the document. */
  #lay(node, layer) {
    node.append(dots(node.querySelector("img"), layer));
  }

  #unlay() {
    document.querySelectorAll("#turns svg.dots:not(.at)").forEach((one) => one.remove());
  }

  /** Show what is looked up: the word in the text, or the place in the image. */
  #mark(target) {
    this.#unmark();
    if (target?.kind === "place") {
      const cross = dots(target.node.querySelector("img"), { place: target });
      cross.classList.add("at");
      target.node.append(cross);
    } else if (target && "highlights" in CSS) {
      const range = document.createRange();
      range.setStart(target.node, target.found[0]);
      range.setEnd(target.node, target.found[1]);
      CSS.highlights.set(HIGHLIGHT, new Highlight(range));
    }
  }

  #unmark() {
    this.#unlay();
    document.querySelectorAll("#turns svg.at").forEach((one) => one.remove());
    if ("highlights" in CSS) CSS.highlights.delete(HIGHLIGHT);
  }
}

function meter(share, name) {
  return element("meter", { min: 0, max: 1, value: share, "aria-label": name });
}
