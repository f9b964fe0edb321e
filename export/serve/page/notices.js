// Sentences above the controls: errors and what was done, each with what can be done about it.

import { button, element } from "./dom.js";

const place = document.querySelector("#notices");
const STAYS_MS = 8000; // what is no error goes by itself; while it has the focus it stays

/**
 * Show a sentence. `actions` are {name: function}. An error is told at once by a screen reader and stays until it is
 * closed; other notices are told politely.
 */
export function notify(sentence, { actions = {}, error = false } = {}) {
  const notice = element(
    "div",
    { class: error ? "notice error" : "notice", role: error ? "alert" : "status" },
    element("p", { dir: "auto" }, sentence),
    ...Object.entries(actions).map(([name, run]) =>
      button(name, {
        onclick: () => {
          notice.remove();
          run();
        },
      }),
    ),
    button("Close this message", { icon: "close", quiet: true, onclick: () => notice.remove() }),
  );
  place.replaceChildren(notice);
  if (!error) {
    const go = () => (notice.matches(":focus-within, :hover") ? setTimeout(go, 1000) : notice.remove());
    setTimeout(go, STAYS_MS);
  }
}

export const fail = (sentence, actions) => notify(sentence, { actions, error: true });

/** Take away what no longer holds. */
export const clearNotices = () => place.replaceChildren();
