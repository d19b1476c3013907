// What OpenAI's client makes of the completions behind URL, one for each model name: the completion
// that it accumulates, the text as it came in, and the error that it raises.
import OpenAI from "openai";

const [baseURL, ...models] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "none", baseURL, maxRetries: 0 });
const completions = [];
for (const model of models) {
  const seen = { text: "", completion: null, error: null };
  try {
    const messages = [{ role: "user", content: "hi" }];
    const stream = client.chat.completions.stream({ model, messages });
    stream.on("content", (delta) => (seen.text += delta));
    seen.completion = await stream.finalChatCompletion();
  } catch (error) {
    seen.error = { message: error.message, code: error.code ?? null };
  }
  completions.push(seen);
}
console.log(JSON.stringify(completions));
