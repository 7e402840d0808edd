/** The playground: a form, the run that it starts, and what is done with the image. */

import * as api from "./api.js";
import { Brush } from "./brush.js";
import { curl, fromAddress, link } from "./command.js";
import { complain, forgive } from "./problem.js";
import { begin, end, forget, isEmpty, isWhole, take } from "./run.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const ADVANCED = ["order", "schedule", "temperature", "guidance"];
const KEPT_RUNS = 12; // more would fill a phone's memory

let model = null;
let running = null; // the AbortController of the run that draws
let waiting; // the timer that asks again for a model that loads
const runs = []; // the newest first

const say = (text) => ($("live").textContent = text);
const brush = new Brush($("cells"), say);
const view = new View({ onPick: pick, onReturn: look });

// --- Start ---

async function load() {
  clearTimeout(waiting);
  try {
    model = await api.model();
  } catch (error) {
    complain(error, load);
    if (error.status === 503) waiting = setTimeout(load, (error.wait || 5) * 1000); // it gets ready by itself
    return;
  }
  forgive();
  const [width, height] = size();
  const [rows, columns] = model.grid;
  $("stage").style.setProperty("--ratio", `${width} / ${height}`);
  $("stage").style.setProperty("--rows", rows);
  $("stage").style.setProperty("--columns", columns);
  $("stage").toggleAttribute("data-coarse", width <= 128); // enlarged so much, pixels stay sharp
  $("brush-size").max = Math.max(5, Math.ceil(columns / 4));
  $("about").textContent = `${model.method}, ${width} × ${height} pixels, ${rows * columns} tokens`;
  $("steps").max = rows * columns;
  $("steps-range").max = Math.min(rows * columns, 64); // a slider over a thousand can't be set
  const { prompt, ...others } = fromAddress(); // what was typed meanwhile stays
  setSettings({ ...model.sampling, ...others });
  showExamples(model.examples.slice(0, 5));
}

const size = () => model.size.split("x").map(Number);

function showExamples(examples) {
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

// --- The form ---

function setSettings(values) {
  for (const name of ["prompt", "steps", ...ADVANCED]) if (name in values) $(name).value = values[name];
  $("steps-range").value = $("steps").value;
  if ("seed" in values) {
    $("seed").value = values.seed;
    keep(true);
  }
}

/** The request's body. What is as the model has it is left out, except the steps, which are on the page. */
function settings() {
  const body = { prompt: $("prompt").value.trim(), steps: $("steps").valueAsNumber };
  if (kept() && $("seed").value) body.seed = Number($("seed").value);
  const n = Number($("form").elements.n.value);
  if (n > 1) body.n = n;
  for (const name of ADVANCED) {
    const value = $(name).type === "number" ? $(name).valueAsNumber : $(name).value;
    if (value !== model.sampling[name]) body[name] = value;
  }
  return body;
}

const kept = () => $("keep").ariaPressed === "true";

/** A seed that is not kept shows what chance gave, and the next drawing has another. */
function keep(whether) {
  $("keep").ariaPressed = String(whether);
}

async function submit(event) {
  event.preventDefault();
  if (running) return;
  if (!model) await load();
  if (!model) return;
  const body = settings();
  if ($("brush").hidden) {
    draw({ body, edit: null, parent: null });
  } else if (brush.cells.size) {
    const edit = { image: view.shown.image.blob, mask: await brush.mask(...size()) };
    edit.urls = [edit.image, edit.mask].map((blob) => URL.createObjectURL(blob));
    if (!$("form").contains(document.activeElement)) $("draw").focus({ preventScroll: true }); // the brush's buttons go
    leaveBrush();
    draw({ body, edit, parent: view.run });
  } else {
    complain(new api.Problem("Nothing is marked yet", "Brush over the part that is to be regenerated."));
  }
}

// --- A run ---

async function draw(job) {
  if (running) return;
  const before = view.run;
  const run = begin(job);
  forgive();
  busy(new AbortController());
  view.show(run);
  $("pass").scrollIntoView({ block: "nearest" });
  say("Drawing.");
  try {
    for await (const event of api.draw(job.body, job.edit, running.signal)) {
      const frame = take(run, event);
      view.arrived(run);
      if (event.index === 0) announce(run, frame);
    }
    if (!isWhole(run)) throw new api.Problem("The connection broke off", "The image was not finished.");
    end(run, "done");
  } catch (error) {
    end(run, error.name === "AbortError" ? "stopped" : "failed");
    if (run.state === "failed") complain(error, () => draw(job));
  }
  busy(null);
  finish(run, before);
}

/** Each quarter is told, not each pass: a screen reader would never come to an end. */
function announce(run, { step, steps }) {
  const quarter = Math.floor((4 * step) / steps);
  if (quarter > (run.quarter ?? 0) && quarter < 4) say(`Pass ${step} of ${steps}.`);
  run.quarter = quarter;
}

/** A run without any frame leaves what was there before. */
function finish(run, before) {
  const empty = isEmpty(run);
  if (!empty) remember(run);
  view.show(empty && before ? before : run);
  view.earlier(runs, true);
  if (run.state === "done" && !kept()) $("seed").value = run.images[0].seed;
  settle();
  say({ done: `Done in ${(run.total / 1000).toFixed(1)} seconds.`, stopped: "Stopped.", failed: "" }[run.state]);
}

function remember(run) {
  runs.unshift(run);
  for (const old of runs.splice(KEPT_RUNS)) {
    forget(old);
    for (const later of runs) if (later.parent === old) later.parent = null;
  }
}

/** One button in the place of the other; the keyboard's focus goes with it. */
function busy(controller) {
  running = controller;
  const [from, to] = running ? [$("draw"), $("stop")] : [$("stop"), $("draw")];
  const focused = document.activeElement === from;
  to.hidden = false;
  from.hidden = true;
  if (focused) to.focus({ preventScroll: true });
  view.earlier(runs, !running);
}

// --- What is done with the image ---

function pick(index) {
  view.run.chosen = index;
  view.run.frame = null;
  view.show(view.run);
  if (view.shown.image.seed !== undefined) $("seed").value = view.shown.image.seed;
  settle();
}

function look(run) {
  view.show(run);
  view.earlier(runs, true);
  settle();
}

/** The request of the image that is shown, alone. */
function request() {
  const { n, ...body } = view.run.body;
  return { ...body, seed: view.shown.image.seed };
}

/** Address and command follow the image that is shown. */
function settle() {
  const { edit, chosen } = view.run;
  if (chosen === null || view.shown.image.seed === undefined) return;
  $("curl").textContent = curl(request(), edit);
  if (edit) [$("image-file").href, $("mask-file").href] = edit.urls;
  else history.replaceState(null, "", link(request()));
}

function enterBrush() {
  view.run.frame = null;
  view.show(view.run);
  brushing(true);
  brush.open(model.grid);
  $("cells").focus();
}

function leaveBrush() {
  brush.close();
  brushing(false);
}

function brushing(whether) {
  $("brush").hidden = !whether;
  $("stage").toggleAttribute("data-brushing", whether);
  $("draw").textContent = whether ? "Redraw" : "Draw";
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from plain http, other than of this machine, have no clipboard.
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (button.textContent = name), 1500);
}

// --- Wiring ---

const on = (id, event, listener) => $(id).addEventListener(event, listener);

on("form", "submit", submit);
on("form", "invalid", ({ target }) => {
  for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
}, true);
on("prompt", "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Enter also ends a composed letter
  event.preventDefault();
  $("form").requestSubmit();
});
on("stop", "click", () => running?.abort());
on("steps-range", "input", () => ($("steps").value = $("steps-range").value));
on("steps", "input", () => ($("steps-range").value = $("steps").value));
on("seed", "input", () => keep($("seed").value !== ""));
on("keep", "click", () => keep(!kept()));

on("redraw", "click", enterBrush);
on("leave", "click", () => {
  leaveBrush();
  $("redraw").focus();
});
on("brush-size", "input", () => (brush.size = $("brush-size").valueAsNumber));
on("undo", "click", () => brush.undo());
on("clear", "click", () => brush.clear());
on("erase", "click", () => {
  brush.erasing = !brush.erasing;
  $("erase").ariaPressed = String(brush.erasing);
});

on("all", "click", () => {
  Object.assign(view.run, { chosen: null, frame: null });
  view.show(view.run);
  $("candidates").querySelector("input").focus();
});
on("back", "click", () => {
  look(view.run.parent);
  $("redraw").focus(); // the button itself is gone
});
on("copy-curl", "click", () => copy($("copy-curl"), $("curl").textContent));
on("copy-link", "click", () => copy($("copy-link"), link(request())));

addEventListener("hashchange", () => setSettings(fromAddress()));
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  if (running) running.abort();
  else if (!$("brush").hidden) $("leave").click();
});

if (matchMedia("(max-width: 54rem)").matches) $("settings").open = false; // the image is to be near the prompt
if (matchMedia("(pointer: fine)").matches) $("prompt").focus();
setSettings(fromAddress());
load();
