// The page: send a message or replay a recording, and show the stream as it comes.
// Everything from the stream is put in as text, never as HTML.

import { DIALECTS, readerOf } from "./dialects.js";
import { SseReader } from "./sse.js";

const $ = (id) => document.getElementById(id);
const TRIES = [
  ["Weather in Tokyo?", "two tools, a plain answer"],
  ["Weather in Atlantis?", "a tool that fails"],
  ["Paris, and fail halfway", "an error inside the stream"],
  ["Oslo, but stall a while", "a long gap"],
  ["Drop the stream on Lisbon", "cut off, no end"],
  ["Approve a trip to Nairobi", "a question, in AG-UI, responses or Vercel UI"],
];

let aborter = null;

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

const time = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

class View {
  #tools = new Map();
  #bubble = make("div", "bubble agent");
  #text = null;
  #reasoning = null;

  constructor(title, dialect) {
    if ($("welcome")) {
      $("form").prepend($("tries")); // from now on they are small and above the message
      $("welcome").remove();
    }
    $("tools").replaceChildren();
    $("no-tools").hidden = false;
    for (const id of ["t-first", "t-visible", "t-gap", "t-total", "n-frames", "n-bytes"])
      $(id).textContent = "–";
    $("log").append(make("div", "bubble user", title));
    this.#bubble.append(make("div", "dialect", dialect));
    this.#say("");
    $("log").append(this.#bubble);
    this.#scroll(true);
    this.status("streaming", "waiting for the first token");
  }

  status(kind, text) {
    $("status").className = `status ${kind}`;
    $("status").textContent = text;
  }

  show(news) {
    if (news.text !== undefined) this.#say(news.text);
    else if (news.reasoning !== undefined) this.#think(news.reasoning);
    else if (news.tool !== undefined) this.#tool(news);
    else if (news.ask !== undefined) this.note("ask", `Input required: ${news.ask}`);
    else if (news.error !== undefined) this.note("error", news.error);
    this.#scroll();
  }

  note(kind, text) {
    this.#bubble.append(make("p", `note ${kind}`, text));
    this.#scroll();
  }

  end() {
    this.#bubble.querySelector(".live")?.classList.remove("live");
    for (const { item } of this.#tools.values()) item.classList.remove("running");
  }

  // What the agent says before and after a tool call are paragraphs of their own.
  #say(text) {
    if (!this.#text) {
      this.#bubble.querySelector(".live")?.classList.remove("live");
      this.#text = make("div", "text live");
      this.#bubble.append(this.#text);
    }
    this.#text.append(text);
  }

  #think(text) {
    if (!this.#reasoning) {
      const details = make("details", "reasoning");
      details.append(make("summary", "", "Reasoning"));
      this.#reasoning = make("div");
      details.append(this.#reasoning);
      this.#bubble.querySelector(".dialect").after(details);
    }
    this.#reasoning.append(text);
  }

  #tool({ tool, name, args, result, failed }) {
    if (this.#text?.textContent) this.#text = null;
    let entry = this.#tools.get(tool);
    const told = entry !== undefined;
    if (!told) {
      const item = make("li", "running");
      const head = make("div", "head");
      const state = make("span", "state", "called");
      head.append(make("code", "", name ?? "tool"), state);
      const call = make("div", "args");
      item.append(head, call);
      $("tools").append(item);
      $("no-tools").hidden = true;
      entry = { item, state, call, since: performance.now() };
      this.#tools.set(tool, entry);
    }
    if (args !== undefined) entry.call.append(args);
    if (result !== undefined) {
      entry.item.classList.remove("running");
      entry.item.classList.add(failed ? "failed" : "done");
      const took = told ? ` in ${time(performance.now() - entry.since)}` : "";
      entry.state.textContent = (failed ? "failed" : "done") + took;
      entry.item.append(make("div", "result", result));
    }
  }

  #scroll(force = false) {
    const log = $("log");
    if (force || log.scrollHeight - log.scrollTop - log.clientHeight < 120)
      log.scrollTop = log.scrollHeight;
  }
}

class Clock {
  #start = performance.now();
  #last = null;
  #gap = null;
  #frames = 0;
  #bytes = 0;

  frame(news) {
    $("n-frames").textContent = String(++this.#frames);
    const now = performance.now();
    const generated = news.some(
      (one) => (one.text ?? one.reasoning ?? one.args ?? one.name) !== undefined,
    );
    if (!generated) return;
    if (this.#last === null) {
      $("t-first").textContent = time(now - this.#start);
    } else if (this.#gap === null || now - this.#last > this.#gap) {
      this.#gap = now - this.#last;
      $("t-gap").textContent = time(this.#gap);
    }
    this.#last = now;
    if (news.some((one) => one.text) && $("t-visible").textContent === "–")
      $("t-visible").textContent = time(now - this.#start);
  }

  bytes(count) {
    this.#bytes += count;
    $("n-bytes").textContent = this.#bytes.toLocaleString("en");
  }

  end() {
    $("t-total").textContent = time(performance.now() - this.#start);
  }
}

async function stream(path, body, title, dialect) {
  aborter?.abort();
  const mine = (aborter = new AbortController());
  const view = new View(title, dialect);
  const clock = new Clock();
  const read = readerOf(dialect);
  let outcome = null;
  busy(true);
  const reader = new SseReader((frame) => {
    const news = read(frame);
    clock.frame(news);
    for (const one of news) {
      if (one.error !== undefined && outcome?.[0] === "error") continue; // some wires tell it twice
      view.show(one);
      if (one.error !== undefined) outcome = ["error", "error in the stream"];
      else if (one.ask !== undefined) outcome = ["ask", "input required"];
      else if (one.done) outcome ??= ["done", "completed"];
      else if (outcome === null) view.status("streaming", "streaming");
    }
  });
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: mine.signal,
    });
    if (!response.ok) {
      const answer = await response.json().catch(() => ({}));
      throw new Error(answer.error ?? `the server answered ${response.status}`);
    }
    const chunks = response.body.getReader();
    for (;;) {
      const { value, done } = await chunks.read();
      if (done) break;
      clock.bytes(value.length);
      reader.feed(value);
    }
    if (outcome === null) {
      outcome = ["cut", "cut off"];
      view.note("error", "The stream stopped before it was finished.");
    }
  } catch (error) {
    const stopped = mine.signal.aborted;
    outcome = stopped ? ["stopped", "stopped here"] : ["error", "failed"];
    view.note(stopped ? "ask" : "error", stopped ? "Stopped." : error.message);
  }
  view.end();
  if (mine === aborter) {
    clock.end();
    view.status(...outcome);
    busy(false);
  }
}

function busy(on) {
  $("stop").disabled = !on;
  $("send").disabled = on;
}

function send(message) {
  if ($("send").disabled || !message.trim()) return;
  const dialect = $("dialect").value;
  const body = { message, dialect };
  if ($("thread").value) body.thread_id = $("thread").value;
  $("message").value = "";
  stream("/chat", body, message, dialect);
}

function setUp() {
  for (const name of DIALECTS) $("dialect").append(new Option(name, name));
  $("thread").value = `demo-${Math.random().toString(36).slice(2, 6)}`;
  for (const [message, hint] of TRIES) {
    const button = make("button");
    button.type = "button";
    button.append(make("b", "", message), make("span", "", hint));
    button.title = hint;
    button.addEventListener("click", () => send(message));
    $("tries").append(button);
  }
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send($("message").value);
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send($("message").value);
    }
  });
  $("stop").addEventListener("click", () => aborter?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") aborter?.abort();
  });
}

async function listRecordings() {
  const answer = await fetch("/recordings");
  for (const one of await answer.json()) {
    const button = make("button");
    button.type = "button";
    button.append(make("b", "", one.title), make("span", "", `${one.dialect} · ${one.source}`));
    button.title = `${one.bytes.toLocaleString("en")} bytes, licence ${one.licence}`;
    button.addEventListener("click", () => {
      if (!$("send").disabled) stream(`/replay/${one.name}`, {}, `Replay: ${one.title}`, one.dialect);
    });
    const item = make("li");
    item.append(button);
    $("recordings").append(item);
  }
}

setUp();
listRecordings();
$("message").focus();
