// The panel with all documents of this browser: search, open, delete, export and import.

import { imagesOf, titleOf } from "./document.js";
import { button, element } from "./dom.js";
import { fail, notify } from "./notices.js";
import { saveJSON } from "./save.js";
import { all, forget, matches, save } from "./store.js";

const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** `on`: {open(doc), current() -> doc, removed(doc), chooseFile()}. */
export async function historyPanel(body, on) {
  const search = element("input", { type: "search", "aria-label": "Search the documents", placeholder: "Search", autocomplete: "off" });
  const list = element("ul", { class: "documents" });
  const count = element("p", { class: "note", role: "status" });
  const show = async () => {
    let docs;
    try {
      docs = await all();
    } catch (error) {
      fail(`This browser keeps no history here (${error.message}). Download the document as JSON to keep it.`);
      return;
    }
    const words = search.value.trim();
    const found = docs.filter((doc) => !words || matches(doc, words));
    count.textContent = words ? `${found.length} of ${docs.length} documents` : docs.length ? "" : "Nothing yet. What you write is kept here, in this browser alone.";
    list.replaceChildren(...found.map((doc) => entry(doc, on, show)));
  };
  search.addEventListener("input", show);
  const exportAll = async () => saveJSON(await all(), "documents");
  body.replaceChildren(
    search,
    count,
    list,
    element("div", { class: "row" }, button("Export all", { icon: "download", onclick: exportAll }), button("Import…", { onclick: on.chooseFile })),
    element("p", { class: "note" }, "Documents are kept in this browser; the server keeps none."),
  );
  await show();
}

function entry(doc, on, show) {
  const title = titleOf(doc);
  const [image] = imagesOf(doc.turns);
  const isOpen = on.current().id === doc.id;
  const remove = async () => {
    await forget(doc.id);
    on.removed(doc);
    await show();
    notify(`"${title}" is deleted.`, {
      actions: {
        Undo: async () => {
          await save(doc);
          await show();
        },
      },
    });
  };
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", class: "entry", "aria-current": isOpen ? "true" : false, onclick: () => on.open(doc) },
      image ? element("img", { src: image.url, alt: "" }) : element("span", { class: "blank" }),
      element("span", { dir: "auto", class: "name" }, title, element("small", {}, WHEN.format(doc.changed))),
    ),
    button(`Delete "${title}"`, { icon: "remove", quiet: true, onclick: remove }),
  );
}
