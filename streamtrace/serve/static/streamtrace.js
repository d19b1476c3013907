// The runs of agents that streamtrace serves: start, follow, resume and stop them.
//
// Rules that hold here:
// * Every event of a run is told once, in order. What is missing is told as a gap, never skipped.
// * The number of the last event is the cursor. Whatever cuts the connection, the next begins there.
// * A run has ended when the server says so (204). The end of a connection is never taken for it.
// * Bytes are read when an event is asked for: a slow reader holds back the network, not memory.
// * Waiting always has an end: for bytes, for the next attempt, and for attempts that bring nothing.

/**
 * What a run said. `id` is its number in the run, from 1; `null` for what the server says of the
 * run and is not in its log. `json` is the data as JSON, `undefined` where it is none.
 * @typedef {{type: "event", id: number | null, event: string, data: string, readonly json: any}} RunEvent
 */

/**
 * Events that the log no longer has: `missed` of them behind number `after`, up to `id`.
 * @typedef {{type: "gap", id: number, after: number, missed: number}} GapEvent
 */

/**
 * How the connection stands. `waiting`: cut, and tried again after `delayMs` (or before, when the
 * network comes back); `attempt` counts those that brought nothing new.
 * @typedef {{state: "connecting" | "open" | "done"}
 *   | {state: "waiting", delayMs: number, attempt: number, cause: unknown}} ConnectionState
 */

/** @typedef {Record<string, string>} Headers */

/**
 * @typedef {object} ClientOptions
 * @property {Headers | ((asked: {refused: boolean}) => Headers | Promise<Headers>)} [headers] sent
 *   with every request, such as `authorization`; or a function that gives them, asked anew for each
 *   request, and with `refused` set after a 401, which is then tried once more
 * @property {typeof fetch} [fetch] in place of the global one
 * @property {number} [idleTimeoutMs] a connection on which no byte comes for so long, heartbeats
 *   included, is cut and resumed
 * @property {number} [maxAttempts] in a row that bring nothing new, then `ConnectionLost`; time
 *   offline does not count
 */

/**
 * @typedef {object} StreamOptions
 * @property {AbortSignal} [signal] leaves the stream, which then throws its reason; the run is not
 *   stopped by that
 * @property {(state: ConnectionState) => void} [onState] told how the connection stands
 */

const FIRST_DELAY_MS = 1000;
const MAX_DELAY_MS = 30_000;
const MAX_RETRY_AFTER_MS = 3_600_000;
const MAX_FRAME_CHARS = 16 * 1024 * 1024;
const NO_STORE = /** @type {const} */ ("no-store");
const TRIED_AGAIN = new Set([502, 503, 504]);
const RESUMED_LATER = new Set([408, 425, 429, 500, ...TRIED_AGAIN]); // the run is there already

/** The server does not serve this: `status`, a short `code`, and what it says as the message. */
export class RunRefused extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {number} [retryAfterMs]
   */
  constructor(status, code, message, retryAfterMs = 0) {
    super(message);
    this.name = "RunRefused";
    this.status = status;
    this.code = code;
    /** How long the server asks to be left alone; 0 where it does not say. */
    this.retryAfterMs = retryAfterMs;
  }
}

/** No attempt brought anything new; `follow` with `after: lastId` goes on later. */
export class ConnectionLost extends Error {
  /**
   * @param {string | null} runId
   * @param {number} lastId
   * @param {unknown} cause of the last attempt
   */
  constructor(runId, lastId, cause) {
    super(`the run could not be reached again, its last event is ${lastId}`, { cause });
    this.name = "ConnectionLost";
    this.runId = runId;
    this.lastId = lastId;
  }
}

/**
 * Server-Sent Events, as WHATWG HTML (9.2.6) reads them: lines end with LF, CR or CRLF, and pieces
 * may be cut anywhere. `hasId`: the block has an id of its own, not that of an earlier one. With one
 * it is told even if it has no data, which is `null` then; an EventSource would keep the id only.
 * @typedef {{event: string, data: string | null, id: string, hasId: boolean}} SseFrame
 */
export class SseParser {
  // Keeps a byte order mark: engines do not agree on which of two they drop when it is cut.
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #isAtStart = true;
  #isAfterCr = false;
  #rest = "";
  /** @type {string[]} */
  #data = [];
  #size = 0;
  #event = "";
  #id = "";
  #hasId = false;

  constructor(maxFrameChars = MAX_FRAME_CHARS) {
    this.maxFrameChars = maxFrameChars;
    /** Of the last whole block that had one. */
    this.lastEventId = "";
    /** @type {number | null} What the server said last of the time before the next attempt. */
    this.retry = null;
  }

  /**
   * The frames that these bytes complete. Throws RangeError for one over `maxFrameChars`.
   * @param {Uint8Array} bytes
   * @returns {SseFrame[]}
   */
  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#isAtStart && text) {
      this.#isAtStart = false;
      if (text[0] === "\ufeff") text = text.slice(1);
    }
    if (this.#isAfterCr && text) {
      this.#isAfterCr = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    if (text.endsWith("\r")) this.#isAfterCr = true;
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop() ?? "";
    const frames = /** @type {SseFrame[]} */ ([]);
    for (const line of lines) this.#line(line, frames);
    if (this.#size + this.#rest.length > this.maxFrameChars) {
      throw new RangeError(`a frame has more than ${this.maxFrameChars} characters`);
    }
    return frames;
  }

  /**
   * @param {string} line
   * @param {SseFrame[]} frames
   */
  #line(line, frames) {
    if (line === "") return this.#end(frames);
    this.#size += line.length;
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
    else if (field === "id" && !value.includes("\0")) {
      this.#id = value;
      this.#hasId = true;
    }
    return undefined;
  }

  /** @param {SseFrame[]} frames */
  #end(frames) {
    this.lastEventId = this.#id;
    if (this.#data.length || this.#hasId) {
      const data = this.#data.length ? this.#data.join("\n") : null;
      frames.push({ event: this.#event || "message", data, id: this.#id, hasId: this.#hasId });
    }
    this.#data = [];
    this.#size = 0;
    this.#event = "";
    this.#hasId = false;
  }
}

/** One request and its answer, cut when no byte comes for `idleMs` while one is waited for. */
class Connection {
  #controller = new AbortController();
  #waitsSince = Infinity;
  /** @type {ReadableStreamDefaultReader<Uint8Array> | undefined} */
  #reader;

  /** @param {number} idleMs */
  constructor(idleMs) {
    this.idleMs = idleMs;
    this.parser = new SseParser();
  }

  /**
   * @template T
   * @param {Promise<T>} promise
   * @returns {Promise<T>}
   */
  async wait(promise) {
    const silence = new Error(`nothing came for ${this.idleMs} ms`);
    const timer = setTimeout(() => this.cut(silence), this.idleMs);
    this.#waitsSince = Date.now();
    let onCut = () => {};
    try {
      return await new Promise((resolve, reject) => {
        onCut = () => reject(this.signal.reason);
        this.signal.addEventListener("abort", onCut);
        promise.then(resolve, reject);
        if (this.signal.aborted) onCut();
      });
    } finally {
      clearTimeout(timer);
      this.signal.removeEventListener("abort", onCut);
      this.#waitsSince = Infinity;
    }
  }

  /** @param {Response} answer */
  readFrom(answer) {
    this.#reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  }

  /** The frames of the next piece; `null` when the answer has ended as it should. */
  async frames() {
    const reader = /** @type {ReadableStreamDefaultReader<Uint8Array>} */ (this.#reader);
    const { done, value } = await this.wait(reader.read());
    return done ? null : this.parser.feed(value);
  }

  get signal() {
    return this.#controller.signal;
  }

  /** @param {unknown} [reason] */
  cut(reason) {
    this.#controller.abort(reason);
  }

  /** Timers stand still while a phone sleeps: what should have been noticed is noticed now. */
  cutIfStale() {
    if (Date.now() - this.#waitsSince > this.idleMs) this.cut(new Error("nothing came in sleep"));
  }
}

/**
 * The events of one run, once: `for await (const event of stream)`. Made by `RunClient`.
 * @implements {AsyncIterable<RunEvent | GapEvent>}
 */
export class RunStream {
  /** @type {string | null} `null` until known: a thread may have no run. */
  runId;
  /** @type {string | null} */
  threadId = null;
  /** The number of the last event that was told: the cursor. */
  lastId;

  #client;
  #options;
  #path;
  /** @type {string | undefined} What starts the run; `undefined` when it is there. */
  #body;
  /** @type {Connection | null} */
  #connection = null;
  #events;
  #attempts = 0;
  #failures = 0;
  #delayMs = FIRST_DELAY_MS;
  #isLeft = false;
  #wake = () => {};
  #isHeld = false;

  /**
   * @internal
   * @param {RunClient} client
   * @param {{path: string, runId: string | null, body?: string, after?: number}} asked
   * @param {StreamOptions} options
   */
  constructor(client, asked, options) {
    this.#client = client;
    this.#options = options;
    this.#path = asked.path;
    this.#body = asked.body;
    this.runId = asked.runId;
    this.lastId = asked.after ?? 0;
    this.#events = this.#read();
    options.signal?.addEventListener("abort", this.#onAbort);
    globalThis.addEventListener?.("online", this.#onOnline);
    globalThis.document?.addEventListener("visibilitychange", this.#onVisible);
  }

  /** @internal Connect. */
  async open() {
    try {
      await this.#connect();
    } catch (error) {
      this.close();
      throw error;
    }
    return this;
  }

  /** @returns {AsyncIterator<RunEvent | GapEvent, void, void>} */
  [Symbol.asyncIterator]() {
    return {
      next: () => this.#events.next(),
      return: () => {
        this.close();
        return this.#events.return();
      },
    };
  }

  /** Ask the server to stop the run; its last events and its end still come. */
  async stop() {
    return this.runId !== null && this.#client.stop(this.runId);
  }

  /** Read no more, and let go of the connection. The run goes on, if its server lets it. */
  close() {
    if (this.#isLeft) return;
    this.#isLeft = true;
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    globalThis.removeEventListener?.("online", this.#onOnline);
    globalThis.document?.removeEventListener("visibilitychange", this.#onVisible);
    this.#connection?.cut();
    this.#wake();
    this.#tell({ state: "done" });
  }

  #onAbort = () => this.close();

  #onOnline = () => {
    // What was open may hang on the network that is gone; to resume loses nothing.
    this.#connection?.cut(new Error("the network changed"));
    if (!this.#isHeld) this.#wake();
  };

  #onVisible = () => {
    if (globalThis.document.visibilityState !== "visible") return;
    this.#connection?.cutIfStale();
    if (!this.#isHeld) this.#wake();
  };

  /** @param {ConnectionState} state */
  #tell(state) {
    this.#options.onState?.(state);
  }

  /** @returns {AsyncGenerator<RunEvent | GapEvent, void, void>} */
  async *#read() {
    try {
      while (this.#connection || (await this.#connect())) {
        const before = this.lastId;
        let isOver = false;
        /** @type {unknown} */
        let cause = new Error("the connection ended");
        try {
          for (;;) {
            const frames = await /** @type {Connection} */ (this.#connection).frames();
            if (frames === null) break;
            this.#delayMs = this.#connection?.parser.retry ?? this.#delayMs;
            for (const frame of frames) {
              yield* this.#eventsOf(frame);
              isOver ||= !frame.hasId;
            }
          }
          if (this.lastId > before) cause = null; // to ask at once whether that was the end
        } catch (error) {
          if (error instanceof RangeError) throw error; // it would come again
          cause = error;
        }
        this.#connection = null;
        if (isOver) return;
        if (this.lastId > before) this.#failures = 0;
        if (cause !== null) await this.#pause(cause);
      }
    } finally {
      this.close();
    }
  }

  /**
   * @param {SseFrame} frame
   * @returns {Generator<RunEvent | GapEvent, void, void>}
   */
  *#eventsOf({ event, data, id, hasId }) {
    const number = hasId ? this.#numberOf(id) : null;
    if (number !== null) {
      if (number <= this.lastId) return;
      const after = this.lastId;
      const isGap = event === "gap" && parsed(data)?.value?.missed === number - after;
      const upTo = isGap ? number : number - 1;
      this.lastId = upTo; // who leaves at the gap has not read the event behind it
      if (upTo > after) yield { type: "gap", id: upTo, after, missed: upTo - after };
      if (isGap) return;
      this.lastId = number;
    }
    if (data === null) return;
    yield {
      type: "event",
      id: number,
      event,
      data,
      get json() {
        return parsed(data);
      },
    };
  }

  /**
   * Ids are `N`, and `RUN:N` on the path of a thread, where a page may not be let read the headers.
   * @param {string} id
   */
  #numberOf(id) {
    const [, run, digits] = /^(?:(.*):)?(\d{1,15})$/.exec(id) ?? [];
    if (digits === undefined) throw new RangeError(`no number of an event: ${id}`);
    if (run !== undefined && this.runId === null) {
      this.runId = run;
      this.#path = pathOf(run);
    }
    return Number(digits);
  }

  /** An answer that streams, after as many attempts as it takes; `false` if the run is over. */
  async #connect() {
    for (;;) {
      this.#leaveIfAsked();
      if (this.#isLeft) return false;
      this.#tell({ state: "connecting" });
      const connection = (this.#connection = new Connection(this.#client.idleTimeoutMs));
      try {
        const answer = await this.#attempt(connection);
        if (answer.status === 204) {
          this.close();
          return false;
        }
        connection.readFrom(answer);
        this.#tell({ state: "open" });
        return true;
      } catch (error) {
        connection.cut();
        this.#connection = null;
        if (error instanceof RunRefused && !this.#isTriedAgain(error)) throw error;
        if (!(error instanceof RunRefused && error.status === 409)) await this.#pause(error);
      }
    }
  }

  /** @param {Connection} connection */
  async #attempt(connection) {
    this.#attempts += 1;
    const body = this.#body;
    const headers = {
      accept: "text/event-stream",
      ...(body && { "content-type": "application/json" }),
      ...(this.lastId && { "last-event-id": String(this.lastId) }),
    };
    const init = { method: body ? "POST" : "GET", headers, body, cache: NO_STORE };
    const answer = await this.#client.ask(this.#path, init, connection);
    this.#body = undefined;
    if (answer.status === 204) return answer;
    if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      throw new RunRefused(answer.status, "no_event_stream", "The answer is no event stream.");
    }
    this.runId = answer.headers.get("x-run-id") ?? this.runId;
    this.threadId = answer.headers.get("x-thread-id") ?? this.threadId;
    if (this.runId !== null) this.#path = pathOf(this.runId);
    return answer;
  }

  /**
   * Whether another attempt may help. A start that was sent before may have begun its run.
   * @param {RunRefused} refusal
   */
  #isTriedAgain({ status }) {
    if (this.#body === undefined) return RESUMED_LATER.has(status);
    if (status !== 409 || this.#attempts === 1 || this.runId === null)
      return TRIED_AGAIN.has(status);
    this.#body = undefined;
    this.#path = pathOf(this.runId);
    return true;
  }

  /** @param {unknown} cause */
  async #pause(cause) {
    this.#leaveIfAsked();
    if (this.#isLeft) return;
    const isOffline = globalThis.navigator?.onLine === false;
    if (!isOffline) this.#failures += 1;
    if (this.#failures > this.#client.maxAttempts) {
      throw new ConnectionLost(this.runId, this.lastId, cause);
    }
    const doubled = isOffline ? MAX_DELAY_MS : this.#delayMs * 2 ** (this.#failures - 1);
    const usualMs = Math.min(MAX_DELAY_MS, doubled) * (0.5 + Math.random() / 2);
    const askedMs = cause instanceof RunRefused ? cause.retryAfterMs : 0;
    const delayMs = Math.max(usualMs, askedMs);
    this.#isHeld = askedMs > 0;
    this.#tell({ state: "waiting", delayMs, attempt: this.#failures, cause });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, delayMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
    });
  }

  #leaveIfAsked() {
    this.#options.signal?.throwIfAborted();
  }
}

/** The runs behind one prefix: `new RunClient("/agents")` for `POST /agents/runs` and the rest. */
export class RunClient {
  #headers;
  #fetch;

  /**
   * @param {string} prefix where the runs are served: a path, or a URL
   * @param {ClientOptions} [options]
   */
  constructor(prefix, { headers = {}, fetch, idleTimeoutMs = 45_000, maxAttempts = 10 } = {}) {
    this.prefix = prefix.replace(/\/+$/, "");
    this.idleTimeoutMs = idleTimeoutMs;
    this.maxAttempts = maxAttempts;
    this.#headers = headers;
    this.#fetch = fetch ?? globalThis.fetch.bind(globalThis);
  }

  /**
   * Start a run; resolves when the server has begun it. `input` is the agent's input. Without a
   * `run_id` or `runId` it gets one, so that a start whose answer was lost is not begun twice.
   * `query`: what the server may be asked besides, `dialect` and `granularity`.
   * Throws RunRefused, ConnectionLost.
   * @param {Record<string, any>} input
   * @param {StreamOptions & {query?: Record<string, string>}} [options]
   * @returns {Promise<RunStream>}
   */
  start(input, options = {}) {
    const given = input.run_id ?? input.runId;
    const runId = given ?? newId();
    const body = JSON.stringify(given === undefined ? { ...input, run_id: runId } : input);
    const path = options.query ? `/runs?${new URLSearchParams(options.query)}` : "/runs";
    return new RunStream(this, { path, runId, body }, options).open();
  }

  /**
   * Follow a run from behind number `after`, from its beginning by default; or the run that its
   * thread began last. Where there is none, or nothing more, the stream is empty.
   * Throws RunRefused, ConnectionLost.
   * @param {{run: string, after?: number, thread?: undefined}
   *   | {thread: string, after?: undefined, run?: undefined}} which
   * @param {StreamOptions} [options]
   * @returns {Promise<RunStream>}
   */
  follow(which, options = {}) {
    const asked =
      which.run !== undefined
        ? { path: pathOf(which.run), runId: which.run, after: which.after }
        : { path: `/threads/${encodeURIComponent(which.thread)}/events`, runId: null };
    return new RunStream(this, asked, options).open();
  }

  /**
   * Ask that a run stops, from wherever it was started; `false` if it was over or stopped already.
   * Throws RunRefused, and what `fetch` throws: to ask again does no harm.
   * @param {string} runId
   * @returns {Promise<boolean>}
   */
  async stop(runId) {
    return (await this.#json(`/runs/${encodeURIComponent(runId)}/stop`, "POST")).stopped;
  }

  /**
   * How a run stands, as the server tells it. Throws as `stop`.
   * @param {string} runId
   * @returns {Promise<any>}
   */
  state(runId) {
    return this.#json(`/runs/${encodeURIComponent(runId)}`, "GET");
  }

  /**
   * @param {string} path
   * @param {string} method
   */
  async #json(path, method) {
    const connection = new Connection(this.idleTimeoutMs);
    return connection.wait((await this.ask(path, { method }, connection)).json());
  }

  /**
   * One request, with the headers of this client. Throws RunRefused.
   * @internal
   * @param {string} path
   * @param {RequestInit} init
   * @param {Connection} connection
   * @returns {Promise<Response>}
   */
  async ask(path, init, connection) {
    const isAsked = typeof this.#headers === "function";
    const send = async (/** @type {boolean} */ refused) => {
      const own = typeof this.#headers === "function" ? this.#headers({ refused }) : this.#headers;
      const headers = { ...(await own), ...init.headers };
      return this.#fetch(this.prefix + path, { ...init, headers, signal: connection.signal });
    };
    let answer = await connection.wait(send(false));
    if (answer.status === 401 && isAsked) {
      await answer.body?.cancel();
      answer = await connection.wait(send(true));
    }
    if (answer.ok) return answer;
    throw await connection.wait(refusalOf(answer));
  }
}

/** @param {string} runId */
const pathOf = (runId) => `/runs/${encodeURIComponent(runId)}/events`;

/** An id that nobody can guess, also where `crypto.randomUUID` is not (pages without TLS). */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string | null} data */
function parsed(data) {
  try {
    return JSON.parse(data ?? "");
  } catch {
    return undefined;
  }
}

/** @param {Response} answer */
async function refusalOf(answer) {
  const told = parsed(await answer.text())?.error ?? {};
  const after = answer.headers.get("retry-after") ?? "";
  const afterMs = /^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now();
  return new RunRefused(
    answer.status,
    told.type ?? "refused",
    told.message ?? `The server answered ${answer.status}.`,
    Math.min(Math.max(afterMs || 0, 0), MAX_RETRY_AFTER_MS),
  );
}
