/** Requests to the endpoint. Every failure becomes a Problem, whose texts can be shown as they are. */

import { events } from "./sse.js";

const KEY_NAME = "emage-key"; // of the API key in the browser's session storage
const MAX_RETRY_S = 600;

export class Problem extends Error {
  /** `status`: 0 if there was no answer; `retryS`: seconds to wait before a retry; `param`: the setting at fault. */
  constructor(title, message, { status = 0, retryS = 0, param = null } = {}) {
    super(message);
    Object.assign(this, { title, status, retryS, param });
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY_NAME, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY_NAME) !== null;
}

/** Returns the server's description of its model. */
export async function model() {
  const response = await send("v1/models");
  return (await response.json()).data[0];
}

/** Yields the events of a request: `body`, and for an edit the files `edit.image` and `edit.mask`. */
export async function* generate(body, edit, signal) {
  const path = edit ? "v1/images/edits" : "v1/images/generations";
  const headers = edit ? {} : { "Content-Type": "application/json" };
  const fields = { ...body, stream: true };
  const content = edit ? form(fields, edit) : JSON.stringify(fields);
  const response = await send(path, { method: "POST", headers, signal, body: content });
  try {
    for await (const data of events(response.body)) {
      const event = JSON.parse(data);
      if (event.type === "error") throw problemOfEvent(event.error);
      yield event;
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem("The connection was lost", "The image was not finished.");
  }
}

function problemOfEvent({ message, code }) {
  const status = code in CODE_TITLES ? 400 : 500;
  return new Problem(CODE_TITLES[code] ?? "Generation failed", message, { status });
}

function form(fields, { image, mask }) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.set(name, value);
  data.set("image", image, "image.png");
  data.set("mask", mask, "mask.png");
  return data;
}

async function send(path, init = {}) {
  const headers = { ...init.headers };
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY_NAME)}`;
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server can't be reached", "Is it running, and is this machine online?");
  }
  if (!response.ok) throw await problemOfAnswer(response);
  return response;
}

const CODE_TITLES = {
  content_policy_violation: "The server rejected this",
};

const TITLES = {
  401: "The server needs an API key",
  403: "The server does not allow this",
  404: "The server has no such model",
  408: "This took too long",
  413: "The request is too large",
  429: "The server is busy",
  503: "The server is not ready",
};

async function problemOfAnswer(response) {
  const { status } = response;
  const answer = await response.json().catch(() => null); // a proxy's error page is not JSON
  const error = answer?.error ?? {};
  const otherwise = status < 500 ? "The request can't be fulfilled" : "The server failed";
  const title = CODE_TITLES[error.code] ?? TITLES[status] ?? otherwise;
  const message = error.message ?? `The server answered with status ${status}.`;
  const retryS = Math.min(Number(response.headers.get("Retry-After")) || 0, MAX_RETRY_S);
  return new Problem(title, message, { status, retryS, param: error.param });
}
