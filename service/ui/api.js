// The service: one call, and its refusals in words. The key lives in the tab's session and nowhere else.

const KEY = "contrec.key";

export const keyOfTab = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** A refusal. status: 0 when nobody answered. again: seconds after which asking again makes sense, or null. */
export class Refusal extends Error {
  constructor(status, code, message, { field = null, again = null } = {}) {
    super(message);
    Object.assign(this, { status, code, field, again });
  }
}

/** Asks the service. body: sent as JSON. Throws Refusal, or AbortError when signal was raised. */
export async function call(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (keyOfTab()) headers["X-API-Key"] = keyOfTab();
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "away", "The service does not answer.", { again: 3 });
  }
  const told = await answer.json().catch((error) => {
    if (signal?.aborted) throw error; // given up while the answer was on its way
    return null;
  });
  if (answer.ok && told !== null) return told;
  throw refusal(answer, told?.error ?? {});
}

function refusal(answer, { code = "unknown", message = "", field = null }) {
  const after = Number(answer.headers.get("Retry-After")) || null;
  const id = answer.headers.get("X-Request-ID");
  const words = {
    401: keyOfTab() ? "The service does not know this API key." : "The service wants an API key.",
    403: `The service does not allow this: ${message}.`,
    429: "The service is busy: too many requests wait.",
    503: code === "model_unavailable" ? "The model does not answer." : `The store is out of reach: ${message}.`,
  };
  const said = field ? message : `${message.charAt(0).toUpperCase()}${message.slice(1)}`; // a field's name stays as it is
  const sentence = words[answer.status] ?? (said ? `${said}.` : "The service failed.");
  const looking = answer.status >= 500 && answer.status !== 501 && answer.status !== 503 && id;
  const again = after ?? (answer.status === 429 || answer.status >= 502 ? 3 : null);
  return new Refusal(answer.status, code, looking ? `${sentence} Its log has it under ${id}.` : sentence, { field, again });
}
