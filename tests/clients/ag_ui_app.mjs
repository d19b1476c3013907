// What @ag-ui/client makes of an agent's runs: `node ag_ui_app.mjs URL STEPS`.
// STEPS is a JSON list; each is what the user says next, on the same thread unless it is `fresh`:
//   {say, tools, state, headers, fresh, abortAtText, resume}    resume: the payload of the answer
import { HttpAgent } from "@ag-ui/client";

const [url, steps] = process.argv.slice(2);
console.warn = () => {};
const runs = [];
let agent;
for (const step of JSON.parse(steps)) {
  if (!agent || step.fresh) {
    agent = new HttpAgent({ url, threadId: `thread-${runs.length}`, headers: step.headers });
  }
  const run = { types: [], text: "", error: null };
  if (step.say) agent.addMessage({ id: `m-${runs.length}`, role: "user", content: step.say });
  if (step.state) agent.setState(step.state);
  const asked = { runId: `run-${runs.length}`, tools: step.tools };
  if (step.resume !== undefined) {
    asked.resume = agent.pendingInterrupts.map(({ id: interruptId }) => ({
      interruptId,
      status: "resolved",
      payload: step.resume,
    }));
  }
  try {
    const { newMessages } = await agent.runAgent(asked, {
      onEvent: ({ event }) => void run.types.push(event.type),
      onRunErrorEvent: ({ event }) => void (run.runError = [event.code, event.message]),
      onTextMessageContentEvent: ({ event }) => {
        run.text += event.delta;
        if (step.abortAtText) agent.abortRun();
      },
    });
    run.messages = newMessages;
  } catch (error) {
    run.error = { message: String(error.message ?? error), status: error.status ?? null };
  }
  run.interrupts = agent.pendingInterrupts;
  runs.push(run);
}
console.log(JSON.stringify(runs));
