// What Anthropic's client makes of an agent: `node anthropic_app.mjs URL TOKEN STEPS`. STEPS is a
// JSON list: {say, abortAtText}
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, authToken, steps] = process.argv.slice(2);
const client = new Anthropic({ apiKey: null, authToken, baseURL, maxRetries: 0 });
const answers = [];
for (const { say, abortAtText } of JSON.parse(steps)) {
  const seen = { text: "", message: null, error: null };
  const messages = [{ role: "user", content: say }];
  const stream = client.messages.stream({ model: "talker", max_tokens: 9, messages });
  stream.on("text", (delta) => {
    seen.text += delta;
    if (abortAtText) stream.abort();
  });
  try {
    seen.message = await stream.finalMessage();
  } catch (error) {
    const { status, type, message } = error;
    seen.error = { name: error.constructor.name, status: status ?? null, type: type ?? null, message };
  }
  answers.push(seen);
}
console.log(JSON.stringify(answers));
