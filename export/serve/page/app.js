// The page: one document, its turns, and everything that a button or key does to them.

import { say } from "./announce.js";
import { codeDialog, imageDialog, keysDialog } from "./dialogs.js";
import { ensureOpenTurn, forkAt, fromJSON, imagesOf, isEmpty, joined, newDocument, newTurn, partsOf, shown, textOf, titleOf } from "./document.js";
import { showExamples } from "./examples.js";
import { historyPanel } from "./history.js";
import { looksLikeImage, setMostBytes } from "./images.js";
import { LocationsPanel } from "./locations.js";
import { clearNotices, fail, notify } from "./notices.js";
import { optionsPanel } from "./options.js";
import { closePanel, panelButton } from "./panel.js";
import { asCurl, asPython, requestBody } from "./request.js";
import { saveHTML, saveJSON } from "./save.js";
import * as store from "./store.js";
import { TurnView } from "./turns.js";
import { getJSON, getKey } from "./wire.js";
import { characters } from "./words.js";
import { isWriting, stop, write } from "./writing.js";

const SAVE_AFTER_MS = 400;
const LOOK_AGAIN_MS = 2000;
const RANDOM_SEEDS = 2 ** 31;
const $ = (id) => document.querySelector(`#${id}`);

let doc = newDocument();
let views = [];
let props = null; // what /v1/mmfs/props told
let model = ""; // the name to ask for
let saving = null;
let lastEditor = null; // where the caret was
let lastRange = null;

// The document.

function show(next) {
  stop();
  doc = next;
  ensureOpenTurn(doc);
  history.replaceState(null, "", `#${doc.id}`);
  $("title").value = doc.title;
  document.querySelector(`input[name=mode][value=${doc.mode}]`).checked = true;
  lastEditor = lastRange = null;
  render();
  options.refill();
  past.refill();
  locations.clear();
}

function render() {
  ensureOpenTurn(doc);
  views = doc.turns.map((turn, index) => new TurnView(turn, index + 1, handlers));
  $("turns").replaceChildren(...views.map((view) => view.element));
  showEmptiness();
}

function showEmptiness() {
  const empty = doc.turns.length === 1 && isEmpty(doc.turns[0]);
  $("examples").hidden = !empty;
  document.title = empty ? "mmfs" : `${titleOf(doc)} – mmfs`;
}

const viewOf = (turn) => views.find((view) => view.turn === turn);

function changed() {
  doc.changed = Date.now();
  showEmptiness();
  clearTimeout(saving);
  saving = setTimeout(saveNow, SAVE_AFTER_MS);
}

async function saveNow() {
  clearTimeout(saving);
  saving = null;
  if (doc.turns.every(isEmpty) && !doc.title) return;
  try {
    await store.save(structuredClone(doc));
    past.refill();
  } catch (error) {
    fail(`This browser does not keep the document (${error.message}). Download it as JSON to keep it.`);
  }
}

async function open(next) {
  if (saving) await saveNow();
  show(next);
  views.at(-1).editor.focusEnd();
}

// Turns.

const handlers = {
  change: () => changed(),
  say,
  error: (sentence) => fail(sentence),
  hint: (turn) => (turn.role === "user" ? "Write, paste or drop images here" : "Nothing is written here"),
  openImage: (view, node, index) => imageDialog(view.editor, index, locations.canShow(node) ? () => locations.choosePlace(node, 0.5, 0.5) : null),
  clickImage: (view, node, index, event) => {
    const { left, top, width, height } = node.getBoundingClientRect();
    const isChosen = locations.isOpen() && locations.choosePlace(node, (event.clientX - left) / width, (event.clientY - top) / height);
    if (!isChosen) handlers.openImage(view, node, index);
  },
  leave: moveToNextTurn,
  continue: (view) => (view.turn.role === "assistant" ? goOn(view) : answer(view)),
  regenerate,
  fork: (view) => {
    open(forkAt(doc, view.turn)).then(changed);
    notify("This is a new document with everything up to that turn. The old one is in the history.");
  },
  remove: (view) => {
    if (isWriting()) return;
    const at = doc.turns.indexOf(view.turn);
    doc.turns.splice(at, 1);
    render();
    changed();
    (views[at] ?? views.at(-1)).editor.element.focus();
    const owner = doc;
    notify("The turn is removed.", {
      actions: {
        Undo: () => {
          if (doc !== owner) return;
          doc.turns.splice(at, 0, view.turn);
          render();
          changed();
        },
      },
    });
  },
  version: (view, at) => {
    view.turn.at = at;
    view.showVersion();
    changed();
    say(`Version ${at + 1} of ${view.turn.versions.length}.`);
  },
};

/** An image that is at an end of its turn goes into the turn before or behind. */
function moveToNextTurn(view, index, where) {
  const at = views.indexOf(view);
  const other = views[where === "up" ? at - 1 : at + 1];
  if (!other) return;
  const [node] = view.editor.images().splice(index, 1);
  const parts = other.editor.parts();
  view.editor.remove(index);
  other.editor.show(joined(where === "up" ? [...parts, node.imagePart] : [node.imagePart, ...parts]));
  other.editor.on.change();
  other.editor.images().at(where === "up" ? -1 : 0).focus();
  say(`Moved to turn ${views.indexOf(other) + 1}.`);
}

/** Generate, as the button below: a new turn of the model behind the last of yours, or more of its own. */
function generate() {
  const last = doc.turns.findLast((turn) => !isEmpty(turn));
  if (!last) {
    fail("There is nothing to go on from yet. Write a sentence, add an image, or try an example.");
    views.at(-1).editor.element.focus();
    return;
  }
  handlers.continue(viewOf(last));
}

function answer(view) {
  if (!mayWrite()) return;
  const turn = newTurn("assistant");
  doc.turns.splice(doc.turns.indexOf(view.turn) + 1, 0, turn);
  render();
  writeTurn(turn, () => doc.turns.splice(doc.turns.indexOf(turn), 1));
}

function goOn(view) {
  if (!mayWrite()) return;
  const before = shown(view.turn);
  const made = before.made;
  writeTurn(view.turn, () => (before.made = made), { continues: true });
}

function regenerate(view) {
  if (!mayWrite()) return;
  const { turn } = view;
  const before = turn.at;
  turn.versions.push({ parts: [], made: null });
  turn.at = turn.versions.length - 1;
  view.showVersion();
  const seed = Math.floor(Math.random() * RANDOM_SEEDS);
  const back = () => {
    turn.versions.pop();
    turn.at = before;
  };
  writeTurn(turn, back, { seed, earlier: turn.versions[before] });
}

function mayWrite() {
  clearNotices();
  if (isWriting()) fail("The model is still writing. Wait for it, or stop it with Esc.");
  else if (!model) fail("The server has not answered yet. Wait until it has loaded its model.");
  else return true;
  return false;
}

/** Write at the end of a turn; `undo` takes the turn back to what it was, where nothing arrives. */
async function writeTurn(turn, undo, { seed, continues = false, earlier = null } = {}) {
  const owner = doc;
  const before = doc.turns.slice(0, doc.turns.indexOf(turn) + (continues ? 1 : 0));
  const isRecorded = locations.wanted();
  const body = requestBody(model, doc, before, { seed, locations: isRecorded });
  const view = viewOf(turn);
  const from = { images: imagesOf(before), start: characters(textOf(turn)), firstDrawn: imagesOf([turn]).length };
  const { made, pieces, response, error } = await write(view, body);
  const again = { "Try again": () => (earlier ? regenerate(viewOf(turn)) : generate()) };
  if (!pieces.length) {
    undo();
    if (doc === owner) render();
    if (error) fail(error.message, error.status === 401 ? { "Enter the key": () => options.show() } : again);
    else if (made.finish !== "stopped") notify("The model wrote nothing: to it, the document is complete. Add something, or choose what it may write below.");
  } else {
    shown(turn).made = made;
    view.end();
    if (isRecorded && response) {
      const text = pieces.map((piece) => piece.text ?? "").join("");
      locations.keep(turn, { ...from, response, text, drawn: pieces.filter((piece) => piece.url) });
    }
    if (doc === owner) {
      ensureOpenTurn(doc);
      if (doc.turns.length > views.length) render();
      locations.refresh();
    }
    if (error) fail(error.message);
    else if (earlier && same(earlier.parts, partsOf(turn))) {
      notify("It wrote the same again: without a temperature the likeliest text is taken, whatever the seed. Set one under Options.");
    }
  }
  if (doc === owner) changed();
  else await store.save(structuredClone(owner));
}

const same = (parts, others) => JSON.stringify(joined(parts)) === JSON.stringify(joined(others));

// The panels and the menu.

const options = panelButton("options", "Options", (body) =>
  optionsPanel(body, { props: () => props, doc: () => doc, change: changed, key: connect }),
);
const past = panelButton("history", "History", (body) =>
  historyPanel(body, {
    open,
    current: () => doc,
    removed: (gone) => gone.id === doc.id && show(newDocument()),
    chooseFile: () => $("json-files").click(),
  }),
);
const locations = new LocationsPanel({
  turns: () => doc.turns,
  nodes: () => views.flatMap((view) => view.editor.images().map((node) => ({ turn: view.turn, node }))),
  turnOf: (node) => views.find((view) => view.element.contains(node))?.turn,
  can: () => props?.sampling_locations === true,
});

async function importFiles(files) {
  for (const file of files) {
    try {
      const docs = fromJSON(await file.text(), `"${file.name}"`);
      for (const one of docs) await store.save(one);
      if (docs.length) await open(docs[0]);
      notify(docs.length === 1 ? "The document is imported." : `${docs.length} documents are imported; they are in the history.`);
    } catch (error) {
      fail(error.message);
    }
  }
}

const currentRequest = () => requestBody(model, doc, doc.turns);

const COPY_NOTE = "What Generate would send now, with the images in it.";
const menu = {
  "save-html": () => saveHTML(doc),
  "save-json": () => saveJSON([doc], titleOf(doc)),
  import: () => $("json-files").click(),
  "copy-curl": () => codeDialog("As curl", asCurl(currentRequest(), getKey() !== ""), COPY_NOTE),
  "copy-python": () => codeDialog("As Python", asPython(currentRequest(), getKey() !== ""), COPY_NOTE),
  "show-keys": keysDialog,
};
for (const [id, run] of Object.entries(menu)) {
  $(id).addEventListener("click", () => {
    $("menu").hidePopover();
    run();
  });
}

// Controls and keys.

document.addEventListener("selectionchange", () => {
  const { anchorNode } = getSelection();
  const editor = (anchorNode?.nodeType === Node.ELEMENT_NODE ? anchorNode : anchorNode?.parentElement)?.closest(".text")?.editor;
  if (!editor) return;
  lastEditor = editor;
  lastRange = getSelection().getRangeAt(0).cloneRange();
});

function insertFiles(files) {
  const known = lastEditor && views.some((view) => view.editor === lastEditor) && lastEditor.element.isContentEditable;
  const editor = known ? lastEditor : views.at(-1).editor;
  return editor.insertFiles(files, known ? lastRange : null);
}

$("new").addEventListener("click", () => open(newDocument()));
$("generate").addEventListener("click", generate);
$("stop").addEventListener("click", stop);
$("add-image").addEventListener("click", () => $("image-files").click());
$("image-files").addEventListener("change", async ({ target }) => {
  await insertFiles([...target.files]);
  target.value = "";
});
$("json-files").addEventListener("change", async ({ target }) => {
  await importFiles([...target.files]);
  target.value = "";
});
$("title").addEventListener("input", ({ target }) => {
  doc.title = target.value;
  changed();
});
$("mode").addEventListener("change", ({ target }) => {
  doc.mode = target.value;
  changed();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!isWriting()) generate();
  } else if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open], :popover-open")) {
    if (isWriting()) stop();
    else closePanel();
  }
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  if (event.defaultPrevented && event.target.closest?.(".text")) return;
  event.preventDefault(); // the browser would leave the page for the file
  const files = [...event.dataTransfer.files];
  const images = files.filter(looksLikeImage);
  if (images.length) insertFiles(images);
  importFiles(files.filter((file) => !looksLikeImage(file)));
});
addEventListener("pagehide", () => saving && saveNow());
addEventListener("hashchange", async () => {
  const wanted = location.hash.slice(1);
  const kept = wanted && wanted !== doc.id ? await store.load(wanted).catch(() => null) : null;
  if (kept) await open(kept);
});

// The server.

let told = null; // why there is no answer yet

async function connect() {
  try {
    const { data } = await getJSON("models");
    props = await getJSON("mmfs/props");
    [{ id: model }] = data;
    $("model").textContent = model;
    setMostBytes(props.limits?.max_image_bytes);
    options.refill();
    locations.refresh();
    if (told) clearNotices();
    told = null;
  } catch (error) {
    if (error.status === 401) fail(error.message, { "Enter the key": () => options.show() });
    else {
      const sentence = error.status === 503 ? "The server is still loading its model. This page goes on by itself." : error.message;
      if (sentence !== told) notify(sentence, { error: true }); // once, however often it is tried
      told = sentence;
      setTimeout(connect, LOOK_AGAIN_MS);
    }
  }
}

async function begin() {
  showExamples($("example-list"), async (example) => {
    await open(example);
    changed();
  });
  const id = location.hash.slice(1);
  const kept = id ? await store.load(id).catch(() => null) : null;
  show(kept ?? newDocument());
  await connect();
}

begin();
