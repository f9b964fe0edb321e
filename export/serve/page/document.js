// The document: turns of a person and of the model, each of texts and images in order. No view, no network.
//
// document: {id, title, created, changed, mode, options: {name: value}, turns: [turn]}
// turn:     {id, role: "user" | "assistant", at, versions: [{parts, made, recorded?}]}   `at`: which version is shown;
//           `recorded`: how to ask where the model looked (locations.js)
// part:     {type: "text", text} | {type: "image", url, alt}                  `url`: a data URL
// made:     what is known of how the model wrote it (figures.js), or null

export const FORMAT = "mmfs-documents";
export const FORMAT_VERSION = 1;
export const MODES = ["auto", "text", "image"];

const IMAGE_URL = /^data:image\/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;
const TITLE_LENGTH = 60;

export const newId = () => [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");

export function newTurn(role, parts = []) {
  return { id: newId(), role, at: 0, versions: [{ parts, made: null }] };
}

export function newDocument(fields = {}) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, changed: now, mode: "auto", options: {}, turns: [newTurn("user")], ...fields };
}

/** The version of a turn that is shown. */
export const shown = (turn) => turn.versions[turn.at];

export const partsOf = (turn) => shown(turn).parts;

export const textOf = (turn) => partsOf(turn).map((part) => (part.type === "text" ? part.text : "")).join("");

export const isEmpty = (turn) => partsOf(turn).length === 0;

export const imagesOf = (turns) => turns.flatMap((turn) => partsOf(turn).filter((part) => part.type === "image"));

/** Neighbouring texts as one, empty ones left out. */
export function joined(parts) {
  const out = [];
  for (const part of parts) {
    const last = out.at(-1);
    if (part.type === "text" && last?.type === "text") last.text += part.text;
    else if (part.type !== "text" || part.text) out.push({ ...part });
  }
  return out;
}

/** The last turn is the person's, so that there is always a place to write at. */
export function ensureOpenTurn(doc) {
  if (doc.turns.at(-1)?.role !== "user") doc.turns.push(newTurn("user"));
}

/** A copy of the document up to a turn, with an identity of its own. */
export function forkAt(doc, turn) {
  const kept = structuredClone(doc.turns.slice(0, doc.turns.indexOf(turn) + 1));
  const fork = newDocument({ title: doc.title && `${doc.title} (fork)`, mode: doc.mode, options: { ...doc.options }, turns: kept });
  for (const one of fork.turns) one.id = newId();
  ensureOpenTurn(fork);
  return fork;
}

/** The title that was given, or the first words. */
export function titleOf(doc) {
  const words = doc.title.trim() || doc.turns.map(textOf).join(" ").replace(/\s+/g, " ").trim();
  if (words) return words.length > TITLE_LENGTH ? `${words.slice(0, TITLE_LENGTH - 1)}…` : words;
  return imagesOf(doc.turns).length ? "Images" : "Untitled";
}

/**
 * Move the `index`-th image of a turn's parts: over one word or image ("left", "right"), or to an end ("start", "end").
 * Returns {parts, index} as they are then, or null where it can't go further.
 */
export function moved(parts, index, where) {
  const rest = parts.slice();
  const images = parts.filter((part) => part.type === "image");
  const at = parts.indexOf(images[index]);
  const back = where === "left" || where === "start";
  const passed = parts[back ? at - 1 : at + 1];
  if (passed === undefined) return null;
  rest.splice(at, 1);
  if (where === "start") return { parts: joined([parts[at], ...rest]), index: 0 };
  if (where === "end") return { parts: joined([...rest, parts[at]]), index: images.length - 1 };
  if (passed.type === "image") {
    rest.splice(back ? at - 1 : at + 1, 0, parts[at]);
    return { parts: joined(rest), index: index + (back ? -1 : 1) };
  }
  const cut = back ? passed.text.search(/\S*\s*$/) : passed.text.match(/^\s*\S*/)[0].length;
  const halves = [passed.text.slice(0, cut), passed.text.slice(cut)].map((text) => ({ type: "text", text }));
  rest.splice(back ? at - 1 : at, 1, halves[0], parts[at], halves[1]);
  return { parts: joined(rest), index };
}

/** The documents as the text of a JSON file. */
export function toJSON(docs) {
  return JSON.stringify({ format: FORMAT, version: FORMAT_VERSION, documents: docs }, null, 1);
}

/** The documents of such a file, each with a new identity. Throws an Error with a sentence where it is something else. */
export function fromJSON(text, name = "The file") {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error(`${name} is not JSON. Choose a file that this page saved with "Download as JSON" or "Export all".`);
  }
  if (!isObject(file) || file.format !== FORMAT) {
    throw new Error(`${name} holds no documents of this page. Choose a file that it saved with "Download as JSON" or "Export all".`);
  }
  if (file.version !== FORMAT_VERSION) {
    throw new Error(`${name} has version ${JSON.stringify(file.version)} of the format; this page reads version ${FORMAT_VERSION}.`);
  }
  if (!Array.isArray(file.documents)) throw new Error(`${name} has no list of documents; it may have been cut off.`);
  return file.documents.map((doc, index) => readDocument(doc, `Document ${index + 1} of ${name}`));
}

function readDocument(given, where) {
  const wrong = (what) => new Error(`${where} ${what}. Nothing was imported.`);
  if (!isObject(given) || !Array.isArray(given.turns)) throw wrong("has no list of turns");
  const doc = newDocument({ turns: given.turns.map((turn, index) => readTurn(turn, (what) => wrong(`has a turn (${index + 1}) ${what}`))) });
  if (typeof given.title === "string") doc.title = given.title;
  if (Number.isFinite(given.created)) doc.created = given.created;
  if (MODES.includes(given.mode)) doc.mode = given.mode;
  if (isObject(given.options)) {
    for (const [option, value] of Object.entries(given.options)) {
      if (["string", "number", "boolean"].includes(typeof value)) doc.options[option] = value;
    }
  }
  ensureOpenTurn(doc);
  return doc;
}

function readTurn(given, wrong) {
  if (!isObject(given) || !["user", "assistant"].includes(given.role)) throw wrong("of neither you nor the model");
  if (!Array.isArray(given.versions) || !given.versions.length) throw wrong("without content");
  const versions = given.versions.map((version) => {
    if (!isObject(version) || !Array.isArray(version.parts)) throw wrong("without a list of parts");
    return { parts: joined(version.parts.map((part) => readPart(part, wrong))), made: isObject(version.made) ? readMade(version.made) : null };
  });
  const at = Number.isInteger(given.at) && given.at >= 0 && given.at < versions.length ? given.at : versions.length - 1;
  return { ...newTurn(given.role), versions, at };
}

function readPart(given, wrong) {
  if (isObject(given) && given.type === "text" && typeof given.text === "string") return { type: "text", text: given.text };
  if (isObject(given) && given.type === "image" && typeof given.url === "string" && IMAGE_URL.test(given.url)) {
    return { type: "image", url: given.url, alt: typeof given.alt === "string" ? given.alt : "" };
  }
  throw wrong("with a part that is neither a text nor a PNG, JPEG, WebP or GIF as a data URL");
}

/** Figures alone. */
function readMade(given) {
  const kept = Object.entries(given).filter(([, value]) => Number.isFinite(value) || (typeof value === "string" && value.length < 100));
  return Object.fromEntries(kept);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
