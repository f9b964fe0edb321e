// Sampling points on top of an image: area is weight, colour is head.

import { svg } from "./dom.js";

const LARGEST = 0.07; // radius of the heaviest point, in widths of the image
const SMALLEST = 0.007; // so that what has next to no weight can be seen
const COLOURS = ["#ffb000", "#fe3f8c", "#32c7ff", "#6ee05a", "#b18cff", "#ff6a2b", "#00d6b0", "#e8e24a"];

/** The colour of a head; heads beyond the listed colours go round. */
export const colourOf = (head) => COLOURS[head % COLOURS.length];

/**
 * A drawing to lay over an image. `points` are [x, y, weight, head, level] in shares of `box` (left, top, right, bottom in
 * shares of the image); `most` is the weight that gets the largest dot; `place` a point to mark, or null.
 */
export function dots(image, { points = [], box = [0, 0, 1, 1], most = 1, place = null }) {
  const ratio = image.naturalWidth ? image.naturalHeight / image.naturalWidth : 1;
  const [left, top, right, bottom] = box;
  const over = svg("svg", { class: "dots", viewBox: `0 0 1 ${ratio}`, "aria-hidden": "true" });
  const heaviestFirst = [...points].sort((a, b) => b[2] - a[2]); // small dots stay visible on top
  for (const [x, y, weight, head] of heaviestFirst) {
    if (x < 0 || x > 1 || y < 0 || y > 1) continue; // nothing is sampled there
    const centre = { cx: left + x * (right - left), cy: (top + y * (bottom - top)) * ratio };
    const r = Math.max(SMALLEST, LARGEST * Math.sqrt(weight / most));
    over.append(svg("circle", { ...centre, r, fill: colourOf(head), "stroke-width": Math.min(0.007, 0.3 * r) }));
  }
  if (place) {
    const [x, y] = [place.x, place.y * ratio];
    const cross = `M${x - 0.07} ${y}h.14M${x} ${y - 0.07}v.14`;
    over.append(svg("path", { class: "halo", d: cross }), svg("path", { class: "place", d: cross }));
  }
  return over;
}
