// Server-sent events of a body that is being fetched. EventSource does not tell a refused token from a lost server.

/** Each event of a stream of bytes, as {type, data}. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [];
  let type = "message";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = value.split("\n");
    rest.push(lines[0]);
    for (let n = 1; n < lines.length; n += 1) {
      let line = rest.length === 1 ? rest[0] : rest.join("");
      rest = [lines[n]];
      if (line.endsWith("\r")) line = line.slice(0, -1);
      if (line === "") {
        if (data.length) yield { type, data: data.join("\n") };
        type = "message";
        data = [];
      } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("event:")) type = line.slice(6).trim();
    }
  }
}
