/** The endpoint. All that can go wrong with it becomes a Problem, whose words can be shown as they are. */

import { events } from "./sse.js";

const KEY = "emage-key";

export class Problem extends Error {
  /** `status` is 0 where no answer came; `wait` is in seconds; `param` names the setting that is at fault. */
  constructor(title, message, { status = 0, wait = 0, param = null } = {}) {
    super(message);
    Object.assign(this, { title, status, wait, param });
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** What the server says of its model. */
export async function model() {
  const response = await ask("v1/models");
  return (await response.json()).data[0];
}

/** Events of the drawing of `body`, a part of `edit.image` anew where there is one. */
export async function* draw(body, edit, signal) {
  const path = edit ? "v1/images/edits" : "v1/images/generations";
  const headers = edit ? {} : { "Content-Type": "application/json" };
  const asked = { ...body, stream: true };
  const sent = edit ? form(asked, edit) : JSON.stringify(asked);
  const response = await ask(path, { method: "POST", headers, signal, body: sent });
  try {
    for await (const data of events(response.body)) {
      const event = JSON.parse(data);
      if (event.type === "error") throw told(event.error);
      yield event;
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem("The connection broke off", "The image was not finished.");
  }
}

function told({ message, code }) {
  const title = code === "content_policy_violation" ? "This is not drawn here" : "The drawing failed on the way";
  return new Problem(title, message);
}

function form(fields, { image, mask }) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.set(name, value);
  data.set("image", image, "image.png");
  data.set("mask", mask, "mask.png");
  return data;
}

async function ask(path, init = {}) {
  const headers = { ...init.headers };
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server can't be reached", "Is it running, and this machine online?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

const TITLES = {
  401: "This server wants an API key",
  403: "This server does not allow that",
  404: "There is no such model here",
  413: "That is too large for this server",
  429: "The server is busy",
  503: "The server is not ready yet",
};

async function refusal(response) {
  const { status } = response;
  const answer = await response.json().catch(() => null); // a proxy's error page is not JSON
  const told = answer?.error ?? {};
  const title = TITLES[status] ?? (status < 500 ? "That can't be drawn as it is" : "The server could not draw this");
  const message = told.message ?? `The server answered with status ${status}.`;
  const wait = Math.min(Number(response.headers.get("Retry-After")) || 0, 600);
  return new Problem(title, message, { status, wait, param: told.param });
}
