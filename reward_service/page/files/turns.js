// What was sent, step by step, so that each score can stand beside its step. In messages, every tool call is a step,
// and so is a text of the assistant without one; the service reads them in the same order.

/** The turns of a trajectory in either form: {call, answer, unread, status, observation}, what does not apply is null. */
export function turnsOf(trajectory) {
  return trajectory.messages ? ofMessages(trajectory.messages) : trajectory.steps.map(ofStep);
}

function ofStep(step) {
  const call = step.call ? written(step.call.name, step.call.arguments) : null;
  return turn({ call, answer: step.answer, unread: step.parse_error, status: step.status, observation: step.observation });
}

function ofMessages(messages) {
  const results = new Map(messages.filter(({ role }) => role === "tool").map((message) => [message.tool_call_id, message]));
  const own = messages.filter(({ role }) => role === "assistant");
  return own.flatMap((message) => {
    const calls = message.tool_calls ?? [];
    if (calls.length === 0) return [turn({ answer: text(message.content) || (message.refusal ?? "") })];
    return calls.map(({ id, function: { name, arguments: given } }) => {
      const result = results.get(id);
      return turn({ call: written(name, parsed(given)), observation: result && text(result.content), status: result?.status });
    });
  });
}

function turn({ call = null, answer = null, unread = null, status = null, observation = null }) {
  return { call, answer, unread, status, observation };
}

/** price(item: "lamp"); arguments that are no object stay as the model wrote them. */
function written(name, given) {
  const isObject = typeof given === "object" && given !== null;
  const inner = isObject ? Object.entries(given).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ") : given;
  return `${name}(${inner})`;
}

function parsed(given) {
  try {
    return typeof given === "string" ? JSON.parse(given || "{}") : given;
  } catch {
    return given;
  }
}

function text(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.map((piece) => piece.text ?? piece.refusal ?? `[${piece.type}]`).join("\n");
}
