/** Server-sent events of a fetched body, because EventSource can't POST. */

/** Yields the data of every event in a stream of bytes. Chunks may end anywhere, even within a letter or a CRLF. */
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
        } // other lines are comments, or event names, which the data repeats
      }
      if (done) return; // an event without its blank line is incomplete: it is dropped
    }
  } finally {
    reader.cancel().catch(() => {}); // a caller that stops early closes the connection
  }
}
