// Server-sent events read from the body of a response (EventSource cannot send a POST).

/** Yield the data of each event of a stream of bytes; comments and the other fields are skipped. */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an event without the empty line behind it is not one
      rest += value;
      // A "\r" at the very end may be half of a "\r\n": it waits for what follows.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (line === "data" || line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // the connection is given back when the caller leaves early
  }
}
