// A reader of Server-Sent Events for fetch, which EventSource cannot do with POST.
// Rules (WHATWG HTML, section 9.2.6): lines end with LF, CR or CRLF; pieces may be cut anywhere,
// inside a character or a CRLF; a frame ends with a blank line; what stands after the last one is
// not dispatched.

export class SseReader {
  // Waits for the rest of a character. It keeps a byte order mark: engines do not agree on which of
  // two they drop when the first is cut.
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #atStart = true;
  #rest = "";
  #afterCr = false;
  #data = [];
  #event = "";
  #id = "";

  constructor(onFrame) {
    this.onFrame = onFrame;
    this.lastEventId = "";
    this.retry = null;
  }

  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#atStart && text) {
      this.#atStart = false;
      if (text[0] === "\ufeff") text = text.slice(1);
    }
    if (this.#afterCr && text) {
      this.#afterCr = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    if (text.endsWith("\r")) this.#afterCr = true;
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    this.lastEventId = this.#id;
    if (this.#data.length) {
      this.onFrame({
        event: this.#event || "message",
        data: this.#data.join("\n"),
        id: this.lastEventId,
      });
    }
    this.#data = [];
    this.#event = "";
  }
}
