// What each dialect's frames mean for the page: {text}, {reasoning}, {tool, name, args},
// {tool, result, failed}, {ask}, {error} or {done}. A reader is made anew for every stream.

const json = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
};
const show = (value) =>
  value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);

// The end of a run, which asks for what it still waits for.
const ended = (asked) => [...[...asked.values()].map((ask) => ({ ask })), { done: true }];

// The house styles: named events, or a type in the data.
function house() {
  return ({ event, data }) => {
    const body = json(data);
    switch (event === "message" ? body?.type : event) {
      case "token":
      case "message_chunk":
        return [{ text: body?.content ?? data }];
      case "thinking":
        return [{ reasoning: body?.content }];
      case "tool_start":
      case "tool_call":
        return [{ tool: body?.id, name: body?.tool ?? body?.name, args: show(body?.args) }];
      case "tool_end":
      case "tool_result": {
        const result = show(body?.result ?? body?.output);
        return [{ tool: body?.id, result, failed: body?.is_error === true }];
      }
      case "error":
        return [{ error: show(body?.message ?? data) }];
      case "done":
        return [{ done: true }];
      default:
        return [];
    }
  };
}

function openaiChat() {
  const tools = new Map();
  return ({ data }) => {
    if (data === "[DONE]") return [{ done: true }];
    const body = json(data) ?? {};
    if (body.error) return [{ error: show(body.error.message ?? body.error) }];
    const news = [];
    for (const choice of body.choices ?? []) {
      const delta = choice.delta ?? {};
      const reasoning = delta.reasoning_content ?? delta.reasoning;
      if (reasoning) news.push({ reasoning });
      if (typeof delta.content === "string" && delta.content) news.push({ text: delta.content });
      for (const call of delta.tool_calls ?? []) {
        const key = `${choice.index}.${call.index}`;
        if (call.id) {
          tools.set(key, call.id);
          news.push({ tool: call.id, name: call.function?.name ?? "tool" });
        }
        if (call.function?.arguments && tools.has(key))
          news.push({ tool: tools.get(key), args: call.function.arguments });
      }
    }
    return news;
  };
}

function openaiResponses() {
  const tools = new Map(); // from what later events name them by to the item's id
  const asked = new Map();
  return ({ data }) => {
    const body = json(data) ?? {};
    const item = body.item ?? {};
    switch (body.type) {
      case "response.output_text.delta":
        return [{ text: body.delta }];
      case "response.reasoning_summary_text.delta":
      case "response.reasoning_text.delta":
        return [{ reasoning: body.delta }];
      case "response.output_item.added":
        if (!/_call$|_approval_request$/.test(item.type)) return [];
        tools.set(item.call_id ?? item.id, item.id);
        return [{ tool: item.id, name: item.name ?? item.type.replace(/_call$/, "") }];
      case "response.function_call_arguments.delta":
      case "response.mcp_call_arguments.delta":
        return [{ tool: body.item_id, args: body.delta }];
      case "response.output_item.done": {
        const tool = tools.get(item.call_id ?? item.id);
        if (tool === undefined) return [];
        if (item.type === "mcp_approval_request") {
          asked.set(tool, "an approval");
          return [{ tool, args: show(item.arguments) }];
        }
        if (item.type === "function_call") {
          asked.set(tool, `the result of ${item.name}`);
          return [];
        }
        asked.delete(tool);
        const failed = Boolean(item.error) || item.status === "incomplete";
        return [{ tool, result: show(item.error ?? item.output ?? item.status), failed }];
      }
      case "response.completed":
      case "response.incomplete":
        return ended(asked);
      case "response.failed":
        return [{ error: show(body.response?.error?.message ?? "failed") }];
      case "error":
        return [{ error: show(body.error?.message ?? body.message) }];
      default:
        return [];
    }
  };
}

function anthropic() {
  const blocks = new Map();
  return ({ data }) => {
    const body = json(data) ?? {};
    const block = body.content_block ?? {};
    const delta = body.delta ?? {};
    switch (body.type) {
      case "content_block_start":
        if (block.type?.endsWith("tool_use")) {
          blocks.set(body.index, block.id);
          return [{ tool: block.id, name: block.name }];
        }
        if (block.type?.endsWith("tool_result")) {
          const failed = block.is_error === true || Boolean(block.content?.error_code);
          const text = Array.isArray(block.content) && block.content[0]?.text;
          return [{ tool: block.tool_use_id, result: text || show(block.content), failed }];
        }
        return [];
      case "content_block_delta":
        if (delta.type === "text_delta") return [{ text: delta.text }];
        if (delta.type === "thinking_delta") return [{ reasoning: delta.thinking }];
        if (delta.type === "input_json_delta" && blocks.has(body.index))
          return [{ tool: blocks.get(body.index), args: delta.partial_json }];
        return [];
      case "message_stop":
        return [{ done: true }];
      case "error":
        return [{ error: show(body.error?.message) }];
      default:
        return [];
    }
  };
}

function agUi() {
  return ({ data }) => {
    const body = json(data) ?? {};
    switch (body.type) {
      case "TEXT_MESSAGE_CONTENT":
        return [{ text: body.delta }];
      case "REASONING_MESSAGE_CONTENT":
        return [{ reasoning: body.delta }];
      case "TOOL_CALL_START":
        return [{ tool: body.toolCallId, name: body.toolCallName }];
      case "TOOL_CALL_ARGS":
        return [{ tool: body.toolCallId, args: body.delta }];
      case "TOOL_CALL_RESULT":
        return [{ tool: body.toolCallId, result: show(body.content) }];
      case "RUN_FINISHED": {
        const asked = body.outcome?.type === "interrupt" && body.outcome.interrupts?.[0];
        const ask = asked && (asked.message ?? asked.reason?.replaceAll("_", " "));
        return asked ? [{ ask }, { done: true }] : [{ done: true }];
      }
      case "RUN_ERROR":
        return [{ error: show(body.message) }];
      default:
        return [];
    }
  };
}

function vercelUi() {
  const asked = new Map();
  return ({ data }) => {
    const body = json(data) ?? {};
    const tool = body.toolCallId;
    switch (body.type) {
      case "text-delta":
        return [{ text: body.delta }];
      case "reasoning-delta":
        return [{ reasoning: body.delta }];
      case "tool-input-start":
        return [{ tool, name: body.toolName }];
      case "tool-input-delta":
        return [{ tool, args: body.inputTextDelta }];
      case "tool-input-available":
        asked.set(tool, `the result of ${body.toolName}`);
        return [];
      case "tool-output-available":
      case "tool-output-error":
        asked.delete(tool);
        return [{ tool, result: show(body.errorText ?? body.output), failed: "errorText" in body }];
      case "finish":
        return ended(asked);
      case "error":
        return [{ error: show(body.errorText) }];
      default:
        return [];
    }
  };
}

const READERS = {
  cognis: house,
  agentflow: house,
  generic: house,
  "openai-chat": openaiChat,
  "openai-responses": openaiResponses,
  anthropic,
  "ag-ui": agUi,
  "vercel-ui": vercelUi,
};

export const DIALECTS = Object.keys(READERS);
export const readerOf = (dialect) => READERS[dialect]();
