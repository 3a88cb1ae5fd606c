// Talks to the server: relative to the page, with the key in memory only.

// The page is served at the end of any prefix that a proxy puts before it.
const BASE = location.origin + location.pathname.replace(/\/?$/, "/");
let apiKey = "";

/** A refusal, or a server that cannot be reached (status 0). retryAfter: seconds, or null. */
class CallFailed extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Sends a request; gives {body, timing, tokens, milliseconds}. Raises CallFailed, or AbortError when aborted. */
async function call(route, body, signal) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (apiKey) headers["x-api-key"] = apiKey;
  const began = performance.now();
  let response, text;
  try {
    response = await fetch(BASE + route, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin", // what a proxy before the server may want; the server itself has no cookies
      referrerPolicy: "no-referrer",
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallFailed(0, "The server cannot be reached. Is it running, and is the network up?");
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new CallFailed(response.status, `The answer is not from nerve (status ${response.status}).`);
  }
  if (!response.ok) {
    const after = Number(response.headers.get("retry-after"));
    const message = typeof answer?.error === "string" ? answer.error : `The server said no (status ${response.status}).`;
    throw new CallFailed(response.status, message, after > 0 ? after : null);
  }
  return {
    body: answer,
    timing: readTiming(response.headers.get("server-timing") || ""),
    tokens: Number(response.headers.get("x-compute-tokens")),
    milliseconds: performance.now() - began,
  };
}

/** Reads `tokenize;dur=0.1, queue;dur=0.2`: milliseconds by name. */
function readTiming(header) {
  const found = {};
  for (const part of header.split(",")) {
    const match = /^\s*([\w-]+)\s*;\s*dur=([\d.]+)/.exec(part);
    if (match) found[match[1]] = Number(match[2]);
  }
  return found;
}

/** A text as it is sent: a lone half of a surrogate pair is no text. Places stay the same. */
const wellFormed = (text) =>
  text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
