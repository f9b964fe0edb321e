// The server's wire: one request of chat completions as a stream of events, small JSON answers, and errors as sentences.

import { serverSentEvents } from "./sse.js";

const BASE = new URL("v1/", document.baseURI);
let key = sessionStorage.getItem("api-key") ?? "";

/** The key that goes with each request; it is forgotten with the tab. */
export function setKey(given) {
  key = given;
  sessionStorage.setItem("api-key", given);
}

export const getKey = () => key;

export const addressOf = (path) => new URL(path, BASE).href;

/** What went wrong, as a sentence for the reader, with what to do. */
export class WireError extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

/** The JSON at a path under /v1/. Throws WireError. */
export async function getJSON(path) {
  const response = await send(path);
  return response.json();
}

/**
 * Ask for a continuation; `body` is a request of /v1/chat/completions with `stream` set. Yields, in the server's order:
 *   {kind: "started", id}                   admitted, nothing computed yet
 *   {kind: "text", text}
 *   {kind: "progress", index, step, steps}  a denoising step of image `index`
 *   {kind: "preview", index, url}
 *   {kind: "image", index, url}
 *   {kind: "finished", reason}              "stop" or "length"
 *   {kind: "usage", usage, mmfs}            counts, exact reason, seed and times
 * Throws WireError, or AbortError when `signal` was used.
 */
export async function* chat(body, { signal }) {
  const response = await send("chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  let id = null;
  let finished = false;
  try {
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new WireError(advice(0, chunk.error.message));
      if (id === null) yield { kind: "started", id: (id = chunk.id) };
      for (const choice of chunk.choices ?? []) {
        yield* piecesOf(choice.delta ?? {});
        if (choice.finish_reason) {
          finished = true;
          yield { kind: "finished", reason: choice.finish_reason };
        }
      }
      if (chunk.usage) yield { kind: "usage", usage: chunk.usage, mmfs: chunk.mmfs ?? {} };
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof WireError) throw error;
    throw cutOff();
  }
  if (!finished) throw cutOff();
}

function* piecesOf(delta) {
  const { progress, preview } = delta.mmfs ?? {};
  if (progress) yield { kind: "progress", index: progress.index, step: progress.step, steps: progress.steps };
  if (preview) yield { kind: "preview", index: progress?.index ?? 0, url: preview.url };
  if (delta.content) yield { kind: "text", text: delta.content };
  for (const image of delta.images ?? []) yield { kind: "image", index: image.index, url: image.image_url.url };
}

async function send(path, options = {}) {
  const headers = options.body ? { "content-type": "application/json" } : {};
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new WireError("The server does not answer. Is it still running? Your document is kept here; try again when it is.");
  }
  if (response.ok) return response;
  let said = "";
  try {
    said = (await response.json()).error.message;
  } catch {
    said = `The server answered with status ${response.status}.`;
  }
  const wait = Number(response.headers.get("retry-after") ?? NaN);
  const retryAfter = Number.isFinite(wait) ? wait : null;
  throw new WireError(advice(response.status, said, retryAfter), response.status);
}

/** The server's sentence, and what to do about it here. */
function advice(status, said, retryAfter = null) {
  const next = {
    401: "Enter the server's key under Options.",
    413: "Remove an image, or use smaller ones.",
    422: "Replace that image.",
    429: `Your document is kept here; try again ${retryAfter ? `in ${retryAfter} s` : "in a moment"}.`,
    503: "Your document is kept here; try again in a moment.",
  }[status];
  return next ? `${said} ${next}` : said;
}

const cutOff = () => new WireError("The connection ended before the answer did. What had arrived is kept; try again, or continue from there.");
