// Words of a text that is shown: which one is at a place, and where in the text it stands.

const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/**
 * The word of a text at an offset as [start, end]; a sign only where no word is, and null between both. Offsets count UTF-16
 * units, as the DOM does.
 */
export function wordAt(text, offset) {
  const touched = words(text).filter(([start, end]) => offset >= start && offset <= end);
  const [start, end] = touched.find(([, , isWord]) => isWord) ?? touched[0] ?? [];
  return start === undefined ? null : [start, end];
}

function words(text) {
  if (!segmenter) return [...text.matchAll(/\S+/g)].map((one) => [one.index, one.index + one[0].length, true]);
  const segments = [...segmenter.segment(text)].filter((one) => one.segment.trim());
  return segments.map((one) => [one.index, one.index + one.segment.length, one.isWordLike]);
}

/** How many characters stand before a place, in all texts of an element. */
export function charactersBefore(element, node, offset) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let before = "";
  while (walker.nextNode()) {
    if (walker.currentNode === node) return characters(before + node.data.slice(0, offset));
    before += walker.currentNode.data;
  }
  return null;
}

/** Characters as the server counts them: code points, where JavaScript counts UTF-16 units. */
export const characters = (text) => [...text].length;
