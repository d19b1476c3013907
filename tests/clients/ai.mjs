// The Vercel AI SDK's chat client: node ai.mjs 6|7 URL...
// Prints, per URL, the message that it makes of the stream, and its errors.

const [version, ...urls] = process.argv.slice(2);
const { DefaultChatTransport, readUIMessageStream } = await import(version === "6" ? "ai6" : "ai");

async function read(url) {
  let message = { parts: [] };
  const errors = [];
  try {
    const stream = await new DefaultChatTransport({ api: url }).sendMessages({
      chatId: "chat-1",
      trigger: "submit-message",
      messageId: undefined,
      messages: [{ id: "q", role: "user", parts: [{ type: "text", text: "hi" }] }],
    });
    const onError = (error) => errors.push(error.message);
    for await (const one of readUIMessageStream({ stream, onError })) message = one;
  } catch (error) {
    errors.push(error.message);
  }
  return { ...message, errors };
}

console.log(JSON.stringify(await Promise.all(urls.map(read))));
