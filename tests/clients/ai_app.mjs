// What the chat of the Vercel AI SDK makes of an agent: `node ai_app.mjs 6|7 URL STEPS`. STEPS is a
// JSON list; each is what the user says next, in the same chat unless it is `fresh`:
//   {say, headers, fresh, stopAtText}
const [version, api, steps] = process.argv.slice(2);
const { AbstractChat, DefaultChatTransport } = await import(version === "6" ? "ai6" : "ai");

class State {
  status = "ready";
  error = undefined;
  messages = [];
  snapshot = (value) => structuredClone(value);
  pushMessage = (message) => this.messages.push(message);
  popMessage = () => this.messages.pop();
  replaceMessage = (at, message) => {
    this.messages[at] = message;
    this.onText?.(textOf(message));
  };
}

const textOf = ({ parts }) => parts.map((part) => (part.type === "text" ? part.text : "")).join("");

const answers = [];
let chat, state;
for (const step of JSON.parse(steps)) {
  const seen = { isAbort: null, isDisconnect: null };
  if (!chat || step.fresh) {
    state = new State();
    const id = `chat-${answers.length}`;
    const transport = new DefaultChatTransport({ api, body: { thread_id: id } });
    chat = new (class extends AbstractChat {})({ id, state, transport });
  }
  chat.onFinish = ({ isAbort, isDisconnect }) => Object.assign(seen, { isAbort, isDisconnect });
  state.onText = (text) => void (step.stopAtText === text && chat.stop());
  await chat.sendMessage({ text: step.say }, { headers: step.headers });
  const { role, parts } = state.messages.at(-1);
  const error = state.error?.message ?? null;
  answers.push({ ...seen, role, parts, text: textOf({ parts }), status: state.status, error });
}
console.log(JSON.stringify(answers));
