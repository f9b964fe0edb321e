// The request of a continuation, and the same as commands to copy.

import { isEmpty, joined, partsOf } from "./document.js";
import { addressOf } from "./wire.js";

const MODALITIES = { auto: ["text", "image"], text: ["text"], image: ["image"] };
const PREVIEWS = 5; // an image is shown so often before it is done

/** Options that OpenAI's requests have themselves, by our names; the others go into `mmfs`. */
const TOP_LEVEL = { max_new_tokens: "max_tokens", temperature: "temperature", top_p: "top_p", stop: "stop", seed: "seed" };

/** The turns as messages, with nothing but what the model reads. */
export function messagesOf(turns) {
  return turns.filter((turn) => !isEmpty(turn)).map((turn) => ({ role: turn.role, content: contentOf(partsOf(turn)) }));
}

function contentOf(parts) {
  return joined(parts).map((part) =>
    part.type === "text" ? { type: "text", text: part.text } : { type: "image_url", image_url: { url: part.url } },
  );
}

/** The body of a request that continues `turns`, with the document's mode and options. */
export function requestBody(model, doc, turns, { seed, locations = false } = {}) {
  const body = { model, stream: true, stream_options: { include_usage: true }, modalities: MODALITIES[doc.mode] };
  const mmfs = {};
  for (const [name, value] of Object.entries({ ...doc.options, seed: seed ?? doc.options.seed })) {
    if (value === undefined) continue;
    if (name in TOP_LEVEL) body[TOP_LEVEL[name]] = name === "stop" ? [].concat(value) : value;
    else mmfs[name] = value;
  }
  mmfs.preview_every ??= Math.max(1, Math.ceil((mmfs.num_inference_steps ?? 30) / PREVIEWS));
  if (locations) mmfs.sampling_locations = true;
  return { ...body, messages: messagesOf(turns), mmfs };
}

/** The request as a command of curl; the body goes in by a here-document, since images make it longer than a command may be. */
export function asCurl(body, hasKey) {
  const json = JSON.stringify({ ...body, stream: false, stream_options: undefined }, null, 1);
  const key = hasKey ? ' -H "Authorization: Bearer $MMFS_API_KEY"' : "";
  return `curl ${addressOf("chat/completions")} -H "Content-Type: application/json"${key} -d @- <<'JSON'\n${json}\nJSON\n`;
}

/** The request as a program with OpenAI's own package. */
export function asPython(body, hasKey) {
  const { model, modalities, messages, mmfs, stream: _stream, stream_options: _options, ...rest } = body;
  const key = hasKey ? 'os.environ["MMFS_API_KEY"]' : '"none"';
  const settings = Object.entries({ model, modalities, ...rest }).map(([name, value]) => `    ${name}=${python(value)},`);
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${python(addressOf("").replace(/\/$/, ""))}, api_key=${key})
messages = ${python(messages)}
answer = client.chat.completions.create(
${settings.join("\n")}
    messages=messages,
    extra_body=${python({ mmfs })},
)
message = answer.choices[0].message
print(message.content)
for image in getattr(message, "images", None) or []:
    print(image["image_url"]["url"][:60], "...")
`;
}

/** A JSON value as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).filter(([, one]) => one !== undefined);
    return `{${items.map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // a string's escapes and a number's digits are Python's too
}
