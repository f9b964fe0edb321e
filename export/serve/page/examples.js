// Documents to begin with: what the model that comes with mmfs is good at.

import { newDocument, newTurn } from "./document.js";
import { button, element } from "./dom.js";
import { dataURL } from "./images.js";

const EXAMPLES = [
  { name: "Draw what a sentence says", mode: "image", parts: ["a rocket left of a guitar on a blue background"] },
  { name: "Say what an image shows", mode: "text", parts: [{ file: "caption.png", alt: "a tomato above a hamburger above a rocket" }, " a photo of"] },
  { name: "Read a number in an image", mode: "text", parts: [{ file: "numbers.png", alt: "sprites with numbers under them" }, " which number is under the strawberry?"] },
  {
    name: "Tell a story in images",
    mode: "auto",
    options: { max_new_images: 3, max_new_tokens: 24 },
    parts: ["a banana at the bottom left on a green background"],
  },
];

/** Fill the list of examples; `open(doc)` gets the document of the one that is chosen. */
export function showExamples(list, open) {
  list.replaceChildren(
    ...EXAMPLES.map((example) => {
      const image = example.parts.find((part) => part.file);
      const text = example.parts.filter((part) => typeof part === "string").join(" ").trim();
      const made = button(example.name, { class: "example", onclick: async () => open(await documentOf(example)) });
      made.append(
        element("span", { class: "sample" }, image ? element("img", { src: addressOf(image), alt: "" }) : null, element("span", {}, text)),
      );
      return made;
    }),
  );
}

async function documentOf({ mode, options = {}, parts }) {
  const filled = await Promise.all(
    parts.map(async (part) => (part.file ? { type: "image", url: await dataURL(await loaded(part)), alt: part.alt } : { type: "text", text: part })),
  );
  return newDocument({ mode, options: { ...options }, turns: [newTurn("user", filled)] });
}

const addressOf = ({ file }) => new URL(`examples/${file}`, import.meta.url).href;

const loaded = async (part) => (await fetch(addressOf(part))).blob();
