// The server as the page knows it: settings, health, streams, and what its refusals mean in plain words.

/** What went wrong, for people: `title` and `text`; `status` and `param` as the server said them. */
export class Trouble extends Error {
  constructor(title, text, { status = 0, param = null, code = null } = {}) {
    super(text);
    Object.assign(this, { title, text, status, param, code });
  }
}

const TITLES = {
  400: "The server cannot do that",
  401: "The server wants an API key",
  403: "The server does not answer here",
  404: "The server does not know that",
  408: "The request did not arrive in time",
  413: "The prompt is too long for this server",
  429: "The server is busy",
  500: "Something went wrong in the server",
  503: "The server cannot write at the moment",
  504: "The text took longer than it may",
};

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // A proxy's page, or nothing: the status has to do.
  }
  return troubleOf(error, answer.status, answer.headers.get("Retry-After"));
}

function troubleOf(error, status, wait = null) {
  // The server speaks to programs there, which send keys in a header.
  if (status === 401) {
    const wrong = error.code === "invalid_api_key";
    const title = wrong ? "The server does not know this API key" : TITLES[401];
    return new Trouble(title, wrong ? "Is it typed as it was given?" : "Type it into the field for it, and go on.", { status });
  }
  const said = error.message ? sentence(String(error.message), error.param) : `Status ${status}.`;
  const seconds = Number.parseInt(wait ?? "", 10);
  const again = seconds > 0 ? ` Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` : "";
  const title = TITLES[status] ?? "The server refused";
  return new Trouble(title, said + again, { status, param: error.param ?? null, code: error.code ?? null });
}

/** A message as a sentence. A setting's name at its beginning stays as it is spelt. */
function sentence(text, name) {
  const begin = name && text.startsWith(name) ? text[0] : text[0].toUpperCase();
  return begin + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Statuses of what fails in the middle of a stream, where there is none any more. */
const LATE = { server_error: 503, timeout_error: 504, rate_limit_error: 429, invalid_request_error: 400 };

async function ask(path, { key, ...more }) {
  const headers = { ...more.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(path, { cache: "no-store", ...more, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached", "Is it still running, and the network up?");
  }
}

/** What the pair is called and what its settings are. Raises Trouble. */
export async function settings(key) {
  const answer = await ask("page/settings", { key });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

/** What the server says of its models, or null where nobody answers. */
export async function health() {
  try {
    return await (await ask("health", {})).json();
  } catch {
    return null;
  }
}

/**
 * Asks for a text; gives the `choice` of each chunk as it comes, until the text is over.
 * Raises Trouble, or AbortError once `signal` says to stop.
 */
export async function* stream(path, body, key, signal) {
  const answer = await ask(path, {
    key, signal, method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  });
  if (!answer.ok) throw await refusal(answer);
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw troubleOf(chunk.error, LATE[chunk.error.type] ?? 500);
    for (const choice of chunk.choices) yield choice;
  }
  throw new Trouble("The connection was cut", "What is written so far stays; the rest is lost.");
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const event of whole) if (event.startsWith("data: ")) yield event.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The connection was cut", "What is written so far stays; the rest is lost.");
  } finally {
    reader.cancel().catch(() => {}); // whoever leaves early wants no more of it
  }
}
