/** The form: fills its settings from a model or an address, checks them, and returns them as a request's body. */

import { Problem } from "./api.js";

const $ = (id) => document.getElementById(id);
const ADVANCED = ["order", "schedule", "temperature", "guidance"];
const MAX_PROMPT = Number($("prompt").dataset.limit);

export const isSeedKept = () => $("keep").ariaPressed === "true";

/** Keeps the seed for the next run. A seed that is not kept is only shown, and the next run has a random one. */
export function keepSeed(isKept) {
  $("keep").ariaPressed = String(isKept);
}

/** Fills the form with those of its settings that `values` has. `isKept`: its seed is kept for the next run. */
export function setSettings(values, isKept = true) {
  for (const name of ["prompt", "steps", ...ADVANCED]) if (name in values) $(name).value = values[name];
  $("steps-range").value = $("steps").value;
  showCount();
  const n = [...$("form").elements.n].find((choice) => choice.value === String(values.n));
  if (n) n.checked = true;
  if (values.seed !== undefined) {
    $("seed").value = values.seed;
    keepSeed(isKept);
  }
}

/** Returns the request's body. Settings that are the model's own (`defaults`) are left out, except the steps. */
export function requestBody(defaults) {
  const body = { prompt: prompt(), steps: $("steps").valueAsNumber };
  if (isSeedKept() && $("seed").value) body.seed = Number($("seed").value);
  const n = Number($("form").elements.n.value);
  if (n > 1) body.n = n;
  for (const name of ADVANCED) {
    const value = $(name).type === "number" ? $(name).valueAsNumber : $(name).value;
    if (value !== defaults[name]) body[name] = value;
  }
  return body;
}

/** Returns what is wrong with the form, its first fault; null if nothing is. */
export function fault() {
  const problem = (title, message, param) => new Problem(title, message, { status: 400, param });
  const length = promptLength();
  if (!length) return problem("The description is empty", "Say what the image shows.", "prompt");
  if (length > MAX_PROMPT) {
    const message = `It has ${number(length)} characters; up to ${number(MAX_PROMPT)} are allowed.`;
    return problem("The description is too long", message, "prompt");
  }
  const input = [...$("form").elements].find((each) => each.willValidate && !each.validity.valid);
  return input ? problem("A setting is not valid", settingText(input), input.id) : null;
}

function settingText({ id, min, max, step }) {
  if (id === "seed") return "The seed is a whole number of up to 15 digits; empty, it is random.";
  return `${$(id).labels[0].textContent}: a ${step === "any" ? "number" : "whole number"} from ${min} to ${max}.`;
}

const prompt = () => $("prompt").value.trim();
const promptLength = () => [...prompt()].length; // in characters as the server counts them: an emoji is one
const number = (value) => value.toLocaleString("en");

function showCount() {
  const length = promptLength();
  $("count").textContent = `${number(length)} of ${number(MAX_PROMPT)} characters`;
  $("count").toggleAttribute("data-over", length > MAX_PROMPT);
}

/** Shows prompts to try; a click on one submits it. */
export function showExamples(examples) {
  $("examples").hidden = !examples.length;
  $("examples").querySelector("ul").replaceChildren(...examples.map((prompt) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
    button.addEventListener("click", () => {
      setSettings({ prompt });
      $("form").requestSubmit();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

$("prompt").addEventListener("input", showCount);
$("steps-range").addEventListener("input", () => ($("steps").value = $("steps-range").value));
$("steps").addEventListener("input", () => ($("steps-range").value = $("steps").value));
$("seed").addEventListener("input", () => keepSeed($("seed").value !== ""));
