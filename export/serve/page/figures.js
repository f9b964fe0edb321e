// How long an answer took, and what it cost: measured here, and the server's own counts where it tells them.

const seconds = (ms) => ms / 1000;

/** What is measured while an answer is written. Times are in milliseconds of `performance.now()`. */
export class Stopwatch {
  constructor(now = performance.now()) {
    this.begun = now;
    this.firstPiece = null;
    this.drawing = null; // {index, begun, step, steps}
    this.drawn = []; // milliseconds of each image
  }

  piece(now = performance.now()) {
    this.firstPiece ??= now;
  }

  progress({ index, step, steps }, now = performance.now()) {
    this.piece(now);
    if (this.drawing?.index !== index) this.drawing = { index, begun: now, first: step, step, steps };
    Object.assign(this.drawing, { step, steps });
  }

  image(now = performance.now()) {
    this.piece(now);
    if (this.drawing) this.drawn.push(now - this.drawing.begun);
    this.drawing = null;
  }

  /** Milliseconds that the drawing under way still needs at its pace so far; null before that is known. */
  left(now = performance.now()) {
    const { begun, first, step, steps } = this.drawing ?? {};
    return step > first ? ((now - begun) / (step - first)) * (steps - step) : null;
  }

  elapsed(now = performance.now()) {
    return now - this.begun;
  }

  /** What is kept with an answer: numbers alone. `usage` and `mmfs` are the last chunk's, and may be missing. */
  figures(usage = {}, mmfs = {}, now = performance.now()) {
    const { timings = {} } = mmfs;
    const images = this.drawn.length;
    const written = (usage.completion_tokens ?? NaN) - (usage.completion_tokens_details?.image_tokens ?? 0);
    const drawn = this.drawn.reduce((a, b) => a + b, 0);
    const writing = timings.write_ms ?? now - (this.firstPiece ?? now) - drawn;
    const drawing = timings.draw_ms ?? drawn;
    const kept = {
      total_s: seconds(now - this.begun),
      first_s: this.firstPiece === null ? NaN : seconds(this.firstPiece - this.begun),
      tokens: written,
      tokens_per_s: written > 1 && writing > 0 ? (written - 1) / seconds(writing) : NaN, // the first comes with the reading
      prompt_tokens: usage.prompt_tokens ?? NaN,
      cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? NaN,
      images,
      image_s: images ? seconds(drawing) / images : NaN,
      num_cut: mmfs.num_cut || NaN,
    };
    return Object.fromEntries(Object.entries(kept).filter(([, value]) => Number.isFinite(value)));
  }
}

/** The figures of an answer as short texts, each [name, value, what it means]. */
export function described(made) {
  const out = [];
  const add = (name, value, meaning) => out.push([name, value, meaning]);
  if (made.first_s !== undefined) add("first", duration(made.first_s), "Until the first token or denoising step arrived");
  if (made.tokens_per_s !== undefined) add("text", `${round(made.tokens_per_s)} tokens/s`, `${made.tokens} tokens of text were written`);
  if (made.image_s !== undefined) add("drawing", `${duration(made.image_s)} an image`, `${made.images} drawn`);
  if (made.cached_tokens !== undefined) {
    add("cached", `${made.cached_tokens} of ${made.prompt_tokens}`, "Tokens of the document that the server still knew, and so did not read again");
  }
  if (made.seed !== undefined) add("seed", String(made.seed), "The same seed and options give the same answer again");
  return out;
}

/** Why an answer ended, where that is worth a sentence. */
export function ending(made) {
  return {
    max_new_tokens: "It ended at the limit on new tokens. Continue goes on from here.",
    length: "It ended because the document fills the model's context. Remove a turn, or choose overflow “cut” in the options.",
    stopped: "Stopped. Continue goes on from here.",
    failed: "It was cut off. Continue goes on from here.",
  }[made.finish];
}

export const cutSentence = (made) =>
  made.num_cut ? `The oldest ${made.num_cut === 1 ? "part was" : `${made.num_cut} parts were`} left out, since the document was too long.` : null;

export function duration(s) {
  if (s < 0.1) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 10) return `${s.toFixed(s < 1 ? 2 : 1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

const round = (value) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));
