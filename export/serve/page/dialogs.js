// Dialogs: an image of the text, a text to copy, the keys.

import { button, element } from "./dom.js";
import { saveFile } from "./save.js";

/** Open a modal dialog; `content` gets a function that closes it. Focus returns by itself to where it was. */
function open(title, content) {
  const id = "dialog-title";
  const dialog = element("dialog", { "aria-labelledby": id, onclose: () => dialog.remove() });
  const close = () => dialog.close();
  dialog.append(
    element("div", { class: "panel-head" }, element("h2", { id }, title), button("Close", { icon: "close", quiet: true, onclick: close })),
    ...content(close),
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * An image: see it large, describe it, move it, save it, remove it. `look` shows where the model looked when it drew it, or is
 * null.
 */
export function imageDialog(editor, index, look) {
  const { imagePart: part } = editor.images()[index];
  const isLocked = editor.locked;
  const input = element("input", { type: "text", dir: "auto", value: part.alt, id: "alt-text", autocomplete: "off", autofocus: true, disabled: isLocked });
  const closeAnd = (close, act) => () => {
    close();
    act();
  };
  open(`Image ${index + 1} of this turn`, (close) => [
    element("img", { class: "large", src: part.url, alt: part.alt }),
    element(
      "form",
      { method: "dialog", class: "field", onsubmit: () => !isLocked && editor.describe(index, input.value.trim()) },
      element("label", { for: "alt-text" }, "Description, for people who do not see it; the model does not read it"),
      input,
      element(
        "div",
        { class: "row" },
        button("Move left", { disabled: isLocked, onclick: closeAnd(close, () => editor.move(index, "left")) }),
        button("Move right", { disabled: isLocked, onclick: closeAnd(close, () => editor.move(index, "right")) }),
        ...(look ? [button("Where it looked", { onclick: closeAnd(close, look) })] : []),
        button("Save image", { onclick: () => saveImage(part) }),
        button("Remove", { disabled: isLocked, onclick: closeAnd(close, () => editor.remove(index)) }),
        element("button", { type: "submit", class: "primary" }, "Done"),
      ),
    ),
  ]);
}

/** A command or program, ready to be copied. */
export function codeDialog(title, code, note) {
  const text = element("textarea", { readonly: true, spellcheck: "false", "aria-label": title, rows: "14" });
  text.value = code;
  const copied = element("span", { role: "status" });
  open(title, () => [
    element("p", { class: "note" }, note),
    text,
    element(
      "div",
      { class: "row" },
      button("Copy", {
        class: "primary",
        onclick: async () => {
          text.select();
          try {
            await navigator.clipboard.writeText(code);
            copied.textContent = "Copied.";
          } catch {
            copied.textContent = "The browser does not let this page copy. The text is selected: press Ctrl+C.";
          }
        },
      }),
      copied,
    ),
  ]);
}

const KEYS = [
  ["Ctrl+Enter", "Generate: let the model go on"],
  ["Esc", "Stop it, also before its first token"],
  ["Tab", "From a turn to its images, then to its actions; arrows go from one action to the next"],
  ["Enter, on an image", "Describe it, save it, remove it"],
  ["Alt+← Alt+→, on an image", "Move it over a word"],
  ["Alt+↑ Alt+↓, on an image", "Move it to the beginning or end of its turn, then to the turn before or after"],
  ["Delete, on an image", "Remove it"],
  ["Ctrl+V", "Paste text or images at the caret"],
  ["← →, in a model's turn", "With “Where it looked” open: show where the model looked for the word at the caret"],
];

export function keysDialog() {
  open("Keyboard", () => [
    element("dl", { class: "keys" }, ...KEYS.flatMap(([key, what]) => [element("dt", {}, key), element("dd", {}, what)])),
  ]);
}

function saveImage(part) {
  const bytes = Uint8Array.from(atob(part.url.split(",")[1]), (c) => c.charCodeAt(0));
  const type = part.url.slice(5, part.url.indexOf(";"));
  saveFile(`${part.alt || "image"}.${type.split("/")[1].replace("jpeg", "jpg")}`, new Blob([bytes], { type }));
}
