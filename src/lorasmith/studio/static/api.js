// Requests to the server of the studio.

/** What the server refused: `message` for people, `problems` of a config by key. */
export class ApiError extends Error {
  constructor(message, problems = []) {
    super(message);
    this.name = "ApiError";
    this.problems = problems;
  }
}

/** The address of a route with parameters: url("runs/series", {run}). */
export function url(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null) query.set(key, value);
  }
  const text = query.toString();
  return `/api/${path}${text ? `?${text}` : ""}`;
}

/** The JSON of a route that reads. */
export function get(path, parameters = {}, signal = undefined) {
  return request(url(path, parameters), { signal });
}

/** The JSON of a route that changes something. */
export function post(path, body = {}, signal = undefined) {
  const headers = { "Content-Type": "application/json", "X-Lorasmith": "studio" };
  return request(url(path), { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Send a file (a Blob) to a route; returns its JSON. */
export function upload(path, parameters, blob, signal = undefined) {
  const headers = { "Content-Type": "application/octet-stream", "X-Lorasmith": "studio" };
  return request(url(path, parameters), { method: "POST", headers, body: blob, signal });
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The studio does not answer. Runs go on; start it again with: lorasmith studio");
  }
  const isJson = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const content = isJson ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new ApiError(content.error || response.statusText, content.problems);
  return content;
}

/**
 * Listen to a route that sends events, until `signal` is aborted. `handlers`: functions by the name of the event.
 * Hidden tabs do not listen, since a browser opens only six connections; a tab that is shown again starts anew.
 */
export function listen(path, parameters, handlers, signal) {
  let source = null;
  const close = () => {
    source?.close();
    source = null;
  };
  const open = () => {
    if (source || document.hidden || signal.aborted) return;
    const current = typeof parameters === "function" ? parameters() : parameters;
    source = new EventSource(url(path, current));
    for (const [name, handler] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handler(JSON.parse(event.data)));
    }
    // The browser would ask again with the parameters of the first time.
    source.addEventListener("error", () => {
      close();
      if (!signal.aborted) setTimeout(open, 2000);
    });
  };
  const onVisibility = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", onVisibility, { signal });
  signal.addEventListener("abort", close);
  open();
}
