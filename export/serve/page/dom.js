// Elements made by script. Text goes in as text nodes, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick: f`) and children; a child that is a string becomes a text node. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  set(made, attributes);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
}

/** One of the symbols of icons.svg; a screen reader skips it. */
export function icon(name) {
  const sheet = new URL("icons.svg", import.meta.url).pathname;
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `${sheet}#${name}` }));
}

/** A button with an icon and a name; `quiet` shows the icon alone, the name stays for screen readers and as a tip. */
export function button(name, { icon: symbol, quiet = false, ...attributes } = {}) {
  const label = element("span", { class: quiet ? "unseen" : "label" }, name);
  const tip = quiet ? { title: name } : {};
  return element("button", { type: "button", ...tip, ...attributes }, symbol ? icon(symbol) : null, label);
}

/** Buttons that are one stop of the Tab key; arrows go from one to the next (the toolbar pattern of WAI-ARIA). */
export function toolbar(name, buttons) {
  const bar = element("div", { class: "toolbar", role: "toolbar", "aria-label": name }, ...buttons);
  const usable = () => [...bar.querySelectorAll("button:not([disabled]):not([hidden])")];
  const makeStop = (stop) => {
    for (const one of bar.querySelectorAll("button")) one.tabIndex = one === stop ? 0 : -1;
  };
  bar.addEventListener("keydown", (event) => {
    const all = usable();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey || at < 0) return;
    event.preventDefault();
    const next = all[(to + all.length) % all.length];
    makeStop(next);
    next.focus();
  });
  bar.addEventListener("focusin", (event) => makeStop(event.target.closest("button")));
  makeStop(usable()[0]);
  return bar;
}
