// One answer under way: the stream of the server into a turn, the progress under it, and the way to stop it.

import { say, sayRest, sayWritten } from "./announce.js";
import { duration, Stopwatch } from "./figures.js";
import { chat } from "./wire.js";

const TICK_MS = 100;
const elements = Object.fromEntries(["status", "status-text", "progress", "stop", "generate"].map((id) => [id, document.querySelector(`#${id}`)]));
let controller = null;

export const isWriting = () => controller !== null;

/** Stop what is being written, also before its first token; nothing where nothing is. */
export function stop() {
  controller?.abort();
}

/**
 * Write the answer to `body` at the end of a turn. Returns {made, pieces, response, error}: the figures to keep, what
 * arrived ([{kind, ...}]), the server's id of a complete answer, and what went wrong, or null. Never throws.
 */
export async function write(view, body) {
  controller = new AbortController();
  const watch = new Stopwatch();
  const pieces = [];
  const told = { usage: {}, mmfs: {}, response: null };
  let finish = "end";
  let error = null;
  view.begin();
  showButtons(true);
  const timer = setInterval(() => showProgress(watch), TICK_MS);
  showProgress(watch);
  say("The model is writing.");
  try {
    for await (const event of chat(body, { signal: controller.signal })) {
      if (event.kind === "started") told.response = event.id;
      else if (event.kind === "progress") {
        watch.progress(event);
        showProgress(watch); // at once: a short drawing ends before the next tick
      } else if (event.kind === "preview") view.showPreview(event.url);
      else if (event.kind === "text") {
        watch.piece();
        view.addText(event.text);
        sayWritten(event.text);
        pieces.push(event);
      } else if (event.kind === "image") {
        watch.image();
        view.addImage({ type: "image", url: event.url, alt: "" });
        sayRest();
        say(`Image ${watch.drawn.length} is drawn.`);
        pieces.push(event);
      } else if (event.kind === "finished") finish = event.reason === "length" ? "max_new_tokens" : "end";
      else if (event.kind === "usage") Object.assign(told, { usage: event.usage, mmfs: event.mmfs });
    }
  } catch (wrong) {
    finish = wrong.name === "AbortError" ? "stopped" : "failed";
    if (finish === "failed") error = wrong;
  }
  clearInterval(timer);
  controller = null;
  showButtons(false);
  elements.status.hidden = true;
  sayRest();
  say({ stopped: "Stopped.", failed: "" }[finish] ?? `Done after ${duration(watch.elapsed() / 1000)}.`);
  const made = { ...watch.figures(told.usage, told.mmfs), finish: told.mmfs.finish ?? finish, seed: told.mmfs.seed ?? body.seed ?? 0 };
  return { made, pieces, error, response: ["stopped", "failed"].includes(finish) ? null : told.response };
}

function showButtons(writing) {
  const hadFocus = [elements.stop, elements.generate].includes(document.activeElement);
  elements.stop.hidden = !writing;
  elements.generate.hidden = writing;
  if (hadFocus) (writing ? elements.stop : elements.generate).focus();
}

function showProgress(watch) {
  const { drawing } = watch;
  const elapsed = duration(watch.elapsed() / 1000);
  elements.status.hidden = false;
  if (drawing) {
    const left = watch.left();
    elements.progress.value = drawing.step / drawing.steps;
    elements["status-text"].textContent =
      `Drawing image ${watch.drawn.length + 1}: step ${drawing.step} of ${drawing.steps}` + (left === null ? "" : `, ${duration(left / 1000)} left`) + ` · ${elapsed} so far`;
  } else {
    elements.progress.removeAttribute("value");
    elements["status-text"].textContent = `${watch.firstPiece === null ? "Reading the document" : "Writing"} · ${elapsed} so far`;
  }
}
