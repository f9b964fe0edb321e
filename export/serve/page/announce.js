// What a screen reader is told without moving the focus: politely, and text of the model sentence by sentence.

import { element } from "./dom.js";

const KEPT = 6; // lines; older ones have been read
const region = document.querySelector("#announcements");
let waiting = "";

/** Tell one sentence. */
export function say(sentence) {
  region.append(element("p", { dir: "auto" }, sentence));
  while (region.childElementCount > KEPT) region.firstChild.remove();
}

/** Text that is being written: told when a sentence of it is complete. */
export function sayWritten(text) {
  waiting += text;
  const end = waiting.search(/[.!?。！？؟]["')\]]?\s(?!.*[.!?。！？؟]["')\]]?\s)/su);
  if (end >= 0) {
    say(waiting.slice(0, end + 1).trim());
    waiting = waiting.slice(end + 1);
  }
}

/** Nothing more is written: tell what is left. */
export function sayRest() {
  if (waiting.trim()) say(waiting.trim());
  waiting = "";
}
