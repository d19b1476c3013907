// A user of the package `streamtrace`, as TypeScript sees it. Compiled, never run; a line behind
// `@ts-expect-error` must not compile.
import {
  ConnectionLost,
  RunClient,
  RunRefused,
  type GapEvent,
  type RunEvent,
  type RunStream,
} from "streamtrace";

const client = new RunClient("/agents", {
  headers: async ({ refused }) => ({ authorization: refused ? "Bearer new" : "Bearer old" }),
  idleTimeoutMs: 30_000,
});

export async function talk(signal: AbortSignal): Promise<string> {
  const run: RunStream = await client.start({ message: "Hi" }, { signal });
  let text = "";
  for await (const event of run) {
    if (event.type === "gap") {
      const gap: GapEvent = event;
      text += `(${gap.missed} missing)`;
      // @ts-expect-error  a gap has no data
      text += event.data;
    } else {
      const told: RunEvent = event;
      const id: number | null = told.id;
      text += id === null ? "!" : told.json.delta;
    }
  }
  return text;
}

export async function follow(): Promise<[string | null, boolean]> {
  await client.follow(
    { run: "r-1", after: 3 },
    { onState: (now) => now.state === "waiting" && now.delayMs },
  );
  const { runId } = await client.follow({ thread: "t-1" });
  // @ts-expect-error  the numbers are those of a run
  await client.follow({ thread: "t-1", after: 3 });
  return [runId, await client.stop("r-1")];
}

export function explain(error: unknown): string {
  if (error instanceof RunRefused) return `${error.status} ${error.code} ${error.retryAfterMs}`;
  if (error instanceof ConnectionLost) return `${error.runId} ${error.lastId}`;
  // @ts-expect-error  headers are texts
  new RunClient("/agents", { headers: { authorization: 7 } });
  return "";
}
