// What @ag-ui/client makes of the runs behind URL, one for each thread id: the events that passed
// its checks, the messages, the state and the interrupts it ends with, and what it complained of.
import { HttpAgent } from "@ag-ui/client";

const [url, ...threads] = process.argv.slice(2);
const runs = [];
for (const threadId of threads) {
  const run = { events: [], warnings: [], error: null };
  console.warn = (...words) => run.warnings.push(words.join(" "));
  const agent = new HttpAgent({ url, threadId });
  try {
    const onEvent = ({ event }) => void run.events.push(event);
    const { newMessages } = await agent.runAgent({ runId: `run-${threadId}` }, { onEvent });
    run.messages = newMessages;
  } catch (error) {
    run.error = String(error);
  }
  runs.push({ ...run, state: agent.state, interrupts: agent.pendingInterrupts });
}
console.log(JSON.stringify(runs));
