// What OpenAI's client makes of an agent: `node openai_app.mjs BASE_URL API_KEY STEPS`. STEPS is a
// JSON list: {model, say, stream, usage, tools, abortAtText}
import OpenAI from "openai";

const [baseURL, apiKey, steps] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL });
const answers = [];
for (const step of JSON.parse(steps)) {
  const asked = {
    model: step.model ?? "talker",
    messages: [{ role: "user", content: step.say }],
    tools: step.tools,
  };
  const seen = { text: "", completion: null, error: null };
  try {
    if (step.stream) {
      const options = step.usage ? { stream_options: { include_usage: true } } : {};
      const stream = client.chat.completions.stream({ ...asked, ...options });
      stream.on("content", (delta) => {
        seen.text += delta;
        if (step.abortAtText) stream.abort();
      });
      seen.completion = await stream.finalChatCompletion();
    } else {
      seen.completion = await client.chat.completions.create(asked);
    }
  } catch (error) {
    const { status, code, message } = error;
    seen.error = { name: error.constructor.name, status: status ?? null, code: code ?? null, message };
  }
  answers.push(seen);
}
const models = [];
try {
  for await (const model of client.models.list()) models.push(model.id);
} catch (error) {
  models.push(error.status);
}
console.log(JSON.stringify({ answers, models }));
