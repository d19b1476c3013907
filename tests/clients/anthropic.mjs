// What Anthropic's client makes of the runs of a server: of each, the message that its accumulator
// holds at the end, the texts it was told of on the way, and the error.
import Anthropic from "@anthropic-ai/sdk";

const [url, ...runs] = process.argv.slice(2);
const client = new Anthropic({ apiKey: "none", baseURL: url, maxRetries: 0 });

async function read(model) {
  const made = { types: [], text: "", thinking: "", citations: [], message: null, error: null };
  const messages = [{ role: "user", content: "hi" }];
  const stream = client.messages.stream({ model, max_tokens: 9, messages });
  stream.on("streamEvent", (event) => made.types.push(event.type));
  stream.on("text", (delta) => (made.text += delta));
  stream.on("thinking", (delta) => (made.thinking += delta));
  stream.on("citation", (citation) => made.citations.push(citation));
  try {
    made.message = JSON.parse(JSON.stringify(await stream.finalMessage()));
  } catch (error) {
    made.error = { name: error.constructor.name, type: error.type, message: error.message };
  }
  return made;
}

const answers = {};
for (const run of runs) answers[run] = await read(run);
console.log(JSON.stringify(answers));
