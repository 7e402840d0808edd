/** Server-sent events from a fetched body. EventSource can't POST. */

/** The data of every event in a stream of bytes. Chunks may end anywhere, within a letter or a CRLF too. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += value ?? "";
      const lines = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CRLF
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (/^data(:|$)/.test(line)) {
          data.push(line.slice(5).replace(/^ /, ""));
        } // all else is a comment, or an event's name, which the data repeats
      }
      if (done) return; // an event without its blank line was cut off: it is dropped
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening early closes the connection
  }
}
