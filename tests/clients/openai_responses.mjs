// What OpenAI's client makes of the runs of a server: of each, the response that its accumulator
// holds at the end, and the error. Of a run named `plain:NAME`, the events of the plain stream.
import OpenAI from "openai";

const [url, ...runs] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "none", baseURL: `${url}/v1`, maxRetries: 0 });

async function read(model) {
  const made = { types: [], text: "", arguments: {}, response: null, error: null };
  const stream = client.responses.stream({ model, input: "hi" });
  stream.on("event", (event) => made.types.push(event.type));
  stream.on("response.output_text.delta", (event) => (made.text += event.delta));
  stream.on("response.function_call_arguments.delta", (event) => {
    made.arguments[event.item_id] = event.snapshot;
  });
  try {
    made.response = await stream.finalResponse();
  } catch (error) {
    made.error = { name: error.constructor.name, code: error.code, message: error.message };
  }
  return made;
}

async function readPlain(model) {
  const types = [];
  try {
    const stream = await client.responses.create({ model, input: "hi", stream: true });
    for await (const event of stream) types.push(event.type);
  } catch (error) {
    types.push(`raised ${error.constructor.name}`);
  }
  return types;
}

const answers = {};
for (const run of runs) {
  const [, model] = run.match(/^plain:(.*)/) ?? [];
  answers[run] = await (model === undefined ? read(run) : readPlain(model));
}
console.log(JSON.stringify(answers));
