// What the A2A client makes of the stream of an agent: `node a2a.mjs BASE_URL`.
import { Role, TaskState } from "@a2a-js/sdk";
import { ClientFactory } from "@a2a-js/sdk/client";

const textOf = (parts) =>
  parts.map((part) => (part.content?.$case === "text" ? part.content.value : "")).join("");

const client = await new ClientFactory().createFromUrl(process.argv[2]);
const message = {
  messageId: "m1",
  role: Role.ROLE_USER,
  parts: [{ content: { $case: "text", value: "hi" } }],
};
const facts = { ids: [], texts: {}, states: [], closed: [], said: null };
for await (const { payload } of client.sendMessageStream({ message })) {
  const { $case: kind, value } = payload;
  if (kind === "artifactUpdate") {
    const { artifact, append, lastChunk } = value;
    const before = append ? facts.texts[artifact.artifactId] : "";
    facts.texts[artifact.artifactId] = before + textOf(artifact.parts);
    if (lastChunk) facts.closed.push(artifact.artifactId);
  } else {
    if (kind === "task") facts.ids = [value.id, value.contextId];
    facts.states.push(TaskState[value.status.state]);
    if (value.status.message) facts.said = textOf(value.status.message.parts);
  }
}
console.log(JSON.stringify(facts));
