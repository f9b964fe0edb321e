// The documents of this browser, in IndexedDB. Nothing of them is kept on the server.

import { imagesOf, textOf, titleOf } from "./document.js";

const NAME = "mmfs";
const STORE = "documents";
let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function transact(mode, act) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const save = (doc) => transact("readwrite", (store) => store.put(doc));
export const load = (id) => transact("readonly", (store) => store.get(id));
export const forget = (id) => transact("readwrite", (store) => store.delete(id));

/** All documents, the newest first. */
export async function all() {
  const docs = await transact("readonly", (store) => store.getAll());
  return docs.sort((a, b) => b.changed - a.changed);
}

/** Whether all words stand somewhere in a document: its title, its texts, the descriptions of its images. */
export function matches(doc, words) {
  const everything = [titleOf(doc), ...doc.turns.map(textOf), ...imagesOf(doc.turns).map((image) => image.alt)].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => everything.includes(word));
}
