// What streamtrace.js makes of a run: `node streamtrace.mjs URL ASKED`. ASKED is JSON: {start, query | run,
// after | thread, refused: the headers after a 401, stopAt | leaveAt | abortAt: an event's number,
// leaveWaiting, idleTimeoutMs, maxAttempts}. Pauses are told and kept short: nobody waits for a test.
import {
  ConnectionLost,
  RunClient,
  RunRefused,
} from "../../streamtrace/serve/static/streamtrace.js";

const [url, json] = process.argv.slice(2);
const asked = JSON.parse(json);
const idleTimeoutMs = asked.idleTimeoutMs ?? 20_000;
const inTime = setTimeout;
let pauseMs = null; // told just before its timer is set
globalThis.setTimeout = (call, ms, ...more) =>
  inTime(call, ms === pauseMs ? Math.min(ms, 5) : ms, ...more);

const seen = { told: [], pauses: [], causes: [], states: [], error: null, stopped: null };
const headers = asked.refused
  ? async ({ refused }) => ({ authorization: refused ? asked.refused : "Bearer old" })
  : { authorization: "Bearer fixed" };
const client = new RunClient(`${url}/agents/`, {
  headers,
  idleTimeoutMs,
  maxAttempts: asked.maxAttempts,
});
const controller = new AbortController();
const options = {
  query: asked.query,
  signal: controller.signal,
  onState: ({ state, delayMs, cause }) => {
    seen.states.push(state);
    if (state !== "waiting") return;
    pauseMs = delayMs;
    seen.pauses.push(delayMs / 1000);
    seen.causes.push(cause.message);
  },
};
const kinds = {
  event: (e) => [e.id, e.event, e.data],
  gap: (e) => ["gap", e.after, e.missed, e.id],
};
let run;
try {
  run = await (asked.start ? client.start(asked.start, options) : client.follow(asked, options));
  if (asked.leaveWaiting) {
    const events = run[Symbol.asyncIterator]();
    const next = events.next();
    await events.return();
    seen.told.push(await next);
  }
  for await (const event of run) {
    seen.told.push(kinds[event.type](event));
    if (event.id === asked.stopAt) seen.stopped = await run.stop();
    if (event.id === asked.leaveAt) break;
    if (event.id === asked.abortAt) controller.abort(new Error("the page was left"));
  }
} catch (error) {
  const { name, status, code, retryAfterMs, message } = error;
  if (error instanceof RunRefused) seen.error = [name, status, code, retryAfterMs / 1000];
  else if (error instanceof ConnectionLost) seen.error = [name, error.runId, error.lastId];
  else seen.error = [name, message];
}
seen.run_id = run?.runId ?? null;
seen.thread_id = run?.threadId ?? null;
seen.last_id = run?.lastId ?? null;
console.log(JSON.stringify(seen));
