// What @a2a-js/sdk makes of an agent: `node a2a_app.mjs BASE_URL STEPS`. STEPS is a JSON list:
//   {say, stream, goOn, leaveAtText, cancelAtText}      goOn: with the task of the step before
//   {follow, cancelAtText}                              the stream of that task, which was left
import { Role, TaskState } from "@a2a-js/sdk";
import { ClientFactory } from "@a2a-js/sdk/client";

const textOf = (parts) =>
  parts.map((part) => (part.content?.$case === "text" ? part.content.value : "")).join("");

async function cancel(id, facts) {
  const cancelled = await client.cancelTask({ id });
  facts.cancelled = TaskState[cancelled.status.state];
}

const [url, steps] = process.argv.slice(2);
const client = await new ClientFactory().createFromUrl(url);
const answers = [];
let task = null;
for (const [number, step] of JSON.parse(steps).entries()) {
  const message = {
    messageId: `m-${number}`,
    role: Role.ROLE_USER,
    parts: [{ content: { $case: "text", value: step.say } }],
    ...(step.goOn ? { taskId: task.id, contextId: task.contextId } : {}),
  };
  const facts = { texts: {}, states: [], said: null, error: null };
  if (step.stream || step.follow) {
    try {
      const stream = step.follow
        ? client.resubscribeTask({ id: task.id })
        : client.sendMessageStream({ message });
      for await (const { payload } of stream) {
        const { $case: kind, value } = payload;
        if (kind === "artifactUpdate") {
          const { artifactId, parts } = value.artifact;
          facts.texts[artifactId] = (value.append ? facts.texts[artifactId] : "") + textOf(parts);
          if (step.leaveAtText) break;
          if (step.cancelAtText) await cancel(value.taskId, facts);
        } else {
          if (kind === "task") {
            task = value;
            for (const one of value.artifacts) facts.texts[one.artifactId] = textOf(one.parts);
            if (step.cancelAtText && value.artifacts.length) await cancel(value.id, facts);
          }
          facts.states.push(TaskState[value.status.state]);
          if (value.status.message) facts.said = textOf(value.status.message.parts);
        }
      }
    } catch (error) {
      facts.error = error.message;
    }
  } else {
    task = await client.sendMessage({ message });
    for (const { artifactId, parts } of task.artifacts) facts.texts[artifactId] = textOf(parts);
    facts.parts = task.artifacts.map(({ parts }) => parts.length);
    facts.states.push(TaskState[task.status.state]);
    if (task.status.message) facts.said = textOf(task.status.message.parts);
  }
  answers.push({ ...facts, texts: Object.values(facts.texts) });
}
console.log(JSON.stringify(answers));
