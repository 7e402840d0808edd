/** The form: fills its settings from a model or an address, and returns them as a request's body. */

const $ = (id) => document.getElementById(id);
const ADVANCED = ["order", "schedule", "temperature", "guidance"];

export const isSeedKept = () => $("keep").ariaPressed === "true";

/** Keeps the seed for the next run. A seed that is not kept is only shown, and the next run has a random one. */
export function keepSeed(isKept) {
  $("keep").ariaPressed = String(isKept);
}

/** Fills the form with those of its settings that `values` has. `isKept`: its seed is kept for the next run. */
export function setSettings(values, isKept = true) {
  for (const name of ["prompt", "steps", ...ADVANCED]) if (name in values) $(name).value = values[name];
  $("steps-range").value = $("steps").value;
  const n = [...$("form").elements.n].find((choice) => choice.value === String(values.n));
  if (n) n.checked = true;
  if ("seed" in values) {
    $("seed").value = values.seed;
    keepSeed(isKept);
  }
}

/** Returns the request's body. Settings that are the model's own (`defaults`) are left out, except the steps. */
export function requestBody(defaults) {
  const body = { prompt: $("prompt").value.trim(), steps: $("steps").valueAsNumber };
  if (isSeedKept() && $("seed").value) body.seed = Number($("seed").value);
  const n = Number($("form").elements.n.value);
  if (n > 1) body.n = n;
  for (const name of ADVANCED) {
    const value = $(name).type === "number" ? $(name).valueAsNumber : $(name).value;
    if (value !== defaults[name]) body[name] = value;
  }
  return body;
}

/** Shows prompts to try; a click on one submits it. */
export function showExamples(examples) {
  $("examples").hidden = !examples.length;
  $("examples").querySelector("ul").replaceChildren(...examples.map((prompt) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
    button.addEventListener("click", () => {
      $("prompt").value = prompt;
      $("form").requestSubmit();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
