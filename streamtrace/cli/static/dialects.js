// What each dialect's frames mean for the page: {text}, {reasoning}, {tool, name}, {tool, args},
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

// House styles name no ids: a result belongs to the oldest open call of that name.
function calls() {
  let count = 0;
  const open = [];
  return {
    start(name) {
      const tool = `${name}-${++count}`;
      open.push({ tool, name });
      return tool;
    },
    end(name) {
      const index = open.findIndex((call) => call.name === name);
      return index < 0 ? null : open.splice(index, 1)[0].tool;
    },
  };
}

function named(textOf) {
  const known = calls();
  return ({ event, data }) => {
    const body = json(data);
    const name = body?.tool ?? body?.name ?? "tool";
    switch (event) {
      case "token":
      case "message_chunk":
        return [{ text: textOf(data, body) }];
      case "tool_start": {
        const tool = known.start(name);
        return [{ tool, name }, { tool, args: show(body?.args) }];
      }
      case "tool_end": {
        const tool = known.end(name) ?? known.start(name);
        const failed = body?.error !== undefined;
        return [{ tool, name, result: show(body?.error ?? body?.result ?? body?.output), failed }];
      }
      case "error":
        return [{ error: body?.message ?? data }];
      case "done":
        return [{ done: true }];
      default:
        return [];
    }
  };
}

function generic() {
  const known = calls();
  return ({ data }) => {
    const body = json(data) ?? {};
    switch (body.type) {
      case "token":
        return [{ text: show(body.content) }];
      case "status":
        return [{ status: show(body.content) }];
      case "tool_result": {
        const failed = body.error !== undefined;
        const result = show(body.error ?? body.content);
        return [{ tool: known.start(body.tool), name: body.tool, result, failed }];
      }
      case "error":
        return [{ error: show(body.message ?? body.content) }];
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
  const items = new Map();
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
        items.set(item.id, item.type);
        return [{ tool: item.id, name: item.name ?? item.type.replace(/_call$/, "") }];
      case "response.function_call_arguments.delta":
      case "response.mcp_call_arguments.delta":
        return [{ tool: body.item_id, args: body.delta }];
      case "response.output_item.done": {
        if (!items.has(item.id)) return [];
        if (item.type === "mcp_approval_request")
          return [{ tool: item.id, args: show(item.arguments) }, { ask: "an approval" }];
        if (item.type === "function_call") return [{ ask: "the tool's result" }];
        const failed = Boolean(item.error);
        return [{ tool: item.id, result: show(item.error ?? item.output ?? item.status), failed }];
      }
      case "response.completed":
      case "response.incomplete":
        return [{ done: true }];
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
        return asked ? [{ ask: asked.message ?? asked.reason }, { done: true }] : [{ done: true }];
      }
      case "RUN_ERROR":
        return [{ error: show(body.message) }];
      default:
        return [];
    }
  };
}

const READERS = {
  cognis: () => named((data) => data),
  agentflow: () => named((data, body) => show(body?.content)),
  generic,
  "openai-chat": openaiChat,
  "openai-responses": openaiResponses,
  anthropic,
  "ag-ui": agUi,
};

export const DIALECTS = Object.keys(READERS);
export const readerOf = (dialect) => READERS[dialect]();
