// Files that are saved: the document as a page of its own or as JSON, and images.

import { partsOf, titleOf, toJSON } from "./document.js";

const STYLE = `body { font: 17px/1.6 system-ui, sans-serif; max-width: 42em; margin: 3em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } article { white-space: pre-wrap; overflow-wrap: anywhere; margin: 1em 0; }
.user { color: #557799; } img { min-width: 8em; max-width: 100%; margin: .3em; vertical-align: middle; image-rendering: pixelated; border-radius: 6px; }`;

/** Let the browser save a file. */
export function saveFile(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name.replace(/[\\/:*?"<>|\x00-\x1f]+/g, " ").trim().slice(0, 80) || "document";
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

export function saveJSON(docs, name) {
  saveFile(`${name}.json`, new Blob([toJSON(docs)], { type: "application/json" }));
}

export function saveHTML(doc) {
  saveFile(`${titleOf(doc)}.html`, new Blob([asHTML(doc)], { type: "text/html" }));
}

/** The document as a page that needs no other file. Built of elements and text nodes, so that all text is text. */
export function asHTML(doc) {
  const page = document.implementation.createHTMLDocument(titleOf(doc));
  page.documentElement.lang = "und"; // nobody said in what language the text is
  const add = (parent, tag, text = "") => {
    const made = page.createElement(tag);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  add(page.body, "h1", titleOf(doc)).dir = "auto";
  for (const turn of doc.turns) {
    const parts = partsOf(turn);
    if (!parts.length) continue;
    const article = add(page.body, "article");
    article.className = turn.role;
    article.dir = "auto";
    for (const part of parts) {
      if (part.type === "text") article.append(page.createTextNode(part.text));
      else Object.assign(add(article, "img"), { src: part.url, alt: part.alt });
    }
  }
  const written = page.documentElement.outerHTML;
  // The style joins as text: an element of it would be checked by this page's own content security policy.
  return `<!doctype html>\n${written.replace("<head>", `<head><meta charset="utf-8"><style>${STYLE}</style>`)}`;
}
