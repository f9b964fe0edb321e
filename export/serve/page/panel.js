// The panel beside the document: history, options, or where the model looked. One at a time.

const panel = document.querySelector("#panel");
const title = document.querySelector("#panel-title");
const body = document.querySelector("#panel-body");
let open = null;

/**
 * Let a button of the header open the panel. `fill(body)` fills it each time; `closed()` runs when it goes.
 */
export function panelButton(id, name, fill, closed = () => {}) {
  const opener = document.querySelector(`#open-${id}`);
  const entry = { id, opener, name, fill, closed };
  opener.addEventListener("click", () => (open === entry ? closePanel() : openPanel(entry)));
  return { show: () => openPanel(entry), refill: () => open === entry && fill(body), isOpen: () => open === entry };
}

function openPanel(entry) {
  if (open && open !== entry) leave();
  open = entry;
  entry.opener.setAttribute("aria-expanded", "true");
  title.textContent = entry.name;
  panel.hidden = false;
  panel.className = entry.id;
  document.body.classList.add("with-panel");
  body.replaceChildren();
  entry.fill(body);
}

function leave() {
  open.opener.setAttribute("aria-expanded", "false");
  open.closed();
}

export function closePanel() {
  if (!open) return;
  leave();
  panel.hidden = true;
  document.body.classList.remove("with-panel");
  if (panel.contains(document.activeElement) || document.activeElement === document.body) open.opener.focus();
  open = null;
}

document.querySelector("#close-panel").addEventListener("click", () => {
  const { opener } = open;
  closePanel();
  opener.focus();
});
