// What a page of another origin can do with the server: streams by fetch and by EventSource, an error, a DELETE.
async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    return { failed: error.name };
  }
}

const KEY = { authorization: "Bearer none" };

function post(server, path, body, key = KEY) {
  const headers = {
    "content-type": "application/json",
    ...key,
    "idempotency-key": crypto.randomUUID(),
    "x-stainless-lang": "js",
    "anthropic-version": "2023-06-01",
  };
  return fetch(server + path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function chunks(server, request) {
  const response = await post(server, "/v1/completions", { ...request, stream: true });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let reads = 0;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    text += read.value;
    reads += 1;
  }
  return { stream: response.headers.get("x-stream-id"), done: text.endsWith("data: [DONE]\n\n"), reads };
}

async function events(server, request) {
  // An EventSource sends no key, so the stream must have none.
  const response = await post(server, "/v1/streams", { ...request, detach: true }, {});
  const { stream } = await response.json();
  const source = new EventSource(`${server}/v1/streams/${stream}/events`);
  return new Promise((resolve) => {
    const types = [];
    source.onmessage = ({ data }) => types.push(JSON.parse(data).type);
    // The server ends the response; the source comes back after the last event, and gets 204.
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) resolve({ types });
    };
  });
}

async function refused(server, request) {
  const response = await post(server, "/v1/streams", { ...request, n: 0 });
  return { status: response.status, param: (await response.json()).error.param };
}

async function cancelled(server, request) {
  const response = await post(server, "/v1/streams", { ...request, detach: true });
  const { stream } = await response.json();
  const gone = await fetch(`${server}/v1/streams/${stream}`, { method: "DELETE", headers: KEY });
  return { status: gone.status, state: (await gone.json()).state, location: response.headers.has("location") };
}

export async function callAll(server, model) {
  const request = { model, prompt: "Once", max_tokens: 30 };
  const seen = {};
  for (const action of [chunks, events, refused, cancelled]) {
    seen[action.name] = await attempt(() => action(server, request));
  }
  return seen;
}
