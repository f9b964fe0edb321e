// The panel of options, made from what the server says of them at /v1/mmfs/props.

import { button, element } from "./dom.js";
import { getKey, setKey } from "./wire.js";

const GROUPS = {
  Text: ["max_new_tokens", "min_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams", "length_penalty"],
  Images: ["max_new_images", "num_inference_steps", "guidance_scale", "image_guidance_scale", "scheduler"],
  Document: ["seed", "task", "template", "overflow"],
};

/** Options of a request that the page sets itself, or has no use for. */
const OWN = ["mode", "num_return_sequences", "preview_every", "image_format"];

/**
 * Fill the panel. `on`: {props() -> what the server told, or null, doc() -> the document, change(), key()}. A value that
 * is the server's own is left out of the document, so that only what was chosen travels with it.
 */
export function optionsPanel(body, on) {
  const props = on.props();
  const { options } = on.doc();
  const fields = describedOptions(props).map((about) => [groupOf(about.name), field(about, options, on.change)]);
  const groups = [...Object.keys(GROUPS), "Other"].filter((group) => fields.some(([of]) => of === group));
  const reset = button("Reset all", {
    icon: "regenerate",
    onclick: () => {
      for (const name of Object.keys(options)) delete options[name];
      on.change();
      optionsPanel(body, on);
      body.querySelector("input, select, textarea")?.focus();
    },
  });
  body.replaceChildren(
    ...(props ? [] : [element("p", { class: "note" }, "The server has not told its options yet.")]),
    ...groups.map((group) =>
      element("fieldset", { class: "group" }, element("legend", {}, group), ...fields.filter(([of]) => of === group).map(([, made]) => made)),
    ),
    ...(fields.length ? [element("div", { class: "row" }, reset)] : []),
    keyField(on.key),
  );
}

/** The server's options, and the task, whose prompts it lists on their own. */
function describedOptions(props) {
  const listed = (props?.options ?? []).filter(({ name }) => !OWN.includes(name));
  const tasks = props?.tasks ?? [];
  if (!tasks.length) return listed;
  const meaning = "Puts the words of this task around the document, which has to hold what they need.";
  return [...listed, { name: "task", type: "choice", default: null, choices: tasks.map(({ name }) => name), meaning }];
}

const groupOf = (name) => Object.keys(GROUPS).find((group) => GROUPS[group].includes(name)) ?? "Other";

function field(about, options, change) {
  const { name } = about;
  const id = `option-${name}`;
  const input = control(id, about, options[name]);
  input.setAttribute("aria-describedby", `${id}-help`);
  input.addEventListener("change", () => {
    if (!input.checkValidity()) {
      input.reportValidity();
      return;
    }
    const value = valueOf(input, about);
    if (value === undefined || JSON.stringify(value) === JSON.stringify(about.default)) delete options[name];
    else options[name] = value;
    change();
  });
  const label = element("label", { for: id }, name.replaceAll("_", " "));
  return element("div", { class: "field" }, label, input, element("small", { id: `${id}-help` }, about.meaning ?? ""));
}

function control(id, about, value) {
  if (about.type === "choice") {
    const none = about.default === null ? [element("option", { value: "" }, "none")] : [];
    const select = element("select", { id }, ...none, ...about.choices.map((one) => element("option", { value: one }, one)));
    select.value = value ?? about.default ?? "";
    return select;
  }
  const whole = about.type === "integer";
  const input = element("input", {
    id,
    type: "number",
    min: about.least,
    max: about.most,
    step: whole ? 1 : "any",
    inputmode: whole ? "numeric" : "decimal",
    placeholder: about.default === null ? "a new one each time" : String(about.default),
  });
  if (value !== undefined) input.value = value;
  return input;
}

function valueOf(input, about) {
  if (input.value === "") return undefined;
  return about.type === "choice" ? input.value : Number(input.value);
}

function keyField(changed) {
  const input = element("input", { id: "api-key", type: "password", autocomplete: "off", value: getKey() });
  input.addEventListener("change", () => {
    setKey(input.value.trim());
    changed();
  });
  return element(
    "fieldset",
    { class: "group" },
    element("legend", {}, "Server"),
    element("div", { class: "field" }, element("label", { for: "api-key" }, "API key"), input, element("small", {}, "If the server asks for one. It is kept until this tab is closed.")),
  );
}
