// What @a2a-js/sdk makes of an agent: `node a2a_app.mjs BASE_URL STEPS`. STEPS is a JSON list:
//   {say, stream, goOn, cancelAtText}      goOn: with the task of the step before
import { Role, TaskState } from "@a2a-js/sdk";
import { ClientFactory } from "@a2a-js/sdk/client";

const textOf = (parts) =>
  parts.map((part) => (part.content?.$case === "text" ? part.content.value : "")).join("");

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
  if (step.stream) {
    try {
      for await (const { payload } of client.sendMessageStream({ message })) {
        const { $case: kind, value } = payload;
        if (kind === "artifactUpdate") {
          const { artifactId, parts } = value.artifact;
          facts.texts[artifactId] = (value.append ? facts.texts[artifactId] : "") + textOf(parts);
          if (step.cancelAtText) {
            const cancelled = await client.cancelTask({ id: value.taskId });
            facts.cancelled = TaskState[cancelled.status.state];
          }
        } else {
          if (kind === "task") task = value;
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
