/** The playground: a form, the run that it starts, and the actions on an image. */

import * as api from "./api.js";
import { Brush } from "./brush.js";
import { curl, link, setAddress, settingsFromAddress, wasSeedKept } from "./command.js";
import { isSeedKept, keepSeed, requestBody, setSettings, showExamples } from "./form.js";
import * as gallery from "./gallery.js";
import { hideProblem, showProblem } from "./problem.js";
import { addEvent, beginRun, endRun, isComplete, isEmpty, releaseRun } from "./run.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const MAX_RUNS = 12; // kept in memory; more would fill that of a phone

let model = null;
let running = null; // the AbortController of the run in progress
let loadTimer; // calls load again if no model is ready yet
const runs = []; // newest first

const announce = (text) => ($("live").textContent = text);
const brush = new Brush($("positions"), announce);
const view = new View({ onPick: pickImage, onReturn: showRun });

// --- Start ---

async function load() {
  clearTimeout(loadTimer);
  try {
    model = await api.model();
  } catch (error) {
    showProblem(error, load);
    if (error.status === 503) loadTimer = setTimeout(load, (error.retryS || 5) * 1000);
    return;
  }
  hideProblem();
  const [width, height] = imageSize();
  const [rows, columns] = model.grid;
  $("stage").style.setProperty("--ratio", `${width} / ${height}`);
  $("stage").style.setProperty("--rows", rows);
  $("stage").style.setProperty("--columns", columns);
  $("stage").toggleAttribute("data-coarse", width <= 128); // a small image is enlarged with sharp pixels
  $("brush-size").max = Math.max(5, Math.ceil(columns / 4));
  $("about").textContent = `${model.method}, ${width} × ${height} pixels, ${rows * columns} tokens`;
  $("steps").max = rows * columns;
  $("steps-range").max = Math.min(rows * columns, 64); // a slider with a thousand values can't be set precisely
  const { prompt, ...others } = settingsFromAddress(); // a prompt that was typed meanwhile stays
  setSettings({ ...model.sampling, ...others }, wasSeedKept());
  showExamples(model.examples.slice(0, 5));
  await restoreRuns();
}

/** Brings back the runs of this tab. After a reload the one that was shown is shown again; a link shows none. */
async function restoreRuns() {
  const kept = await gallery.restore();
  if (runs.length || running || !kept.shown) return;
  runs.push(...kept.runs);
  if (wasSeedKept() !== undefined) {
    view.show(kept.shown);
    updateLinks();
  }
  view.showEarlier(runs, true);
}

const imageSize = () => model.size.split("x").map(Number);

// --- A run ---

async function submit(event) {
  event.preventDefault();
  if (running) return;
  if (!model) await load();
  if (!model) return;
  const body = requestBody(model.sampling);
  if ($("brush").hidden) {
    generate({ body, edit: null, parent: null });
  } else if (brush.positions.size) {
    const edit = { image: view.shown.image.blob, mask: await brush.mask(...imageSize()) };
    edit.urls = [edit.image, edit.mask].map((blob) => URL.createObjectURL(blob));
    // The brush's buttons are about to be hidden.
    if (!$("form").contains(document.activeElement)) $("generate").focus({ preventScroll: true });
    leaveBrush();
    generate({ body, edit, parent: view.run });
  } else {
    showProblem(new api.Problem("Nothing is marked yet", "Brush over the part to regenerate."));
  }
}

async function generate(request) {
  if (running) return;
  const before = view.run;
  const run = beginRun(request);
  hideProblem();
  setRunning(new AbortController());
  view.show(run);
  $("progress-text").scrollIntoView({ block: "nearest" });
  announce("Generating.");
  try {
    for await (const event of api.generate(request.body, request.edit, running.signal)) {
      const frame = addEvent(run, event);
      view.update(run);
      if (event.index === 0) announceQuarter(run, frame);
    }
    if (!isComplete(run)) throw new api.Problem("The connection was lost", "The image was not finished.");
    endRun(run, "done");
  } catch (error) {
    endRun(run, error.name === "AbortError" ? "stopped" : "failed");
    if (run.state === "failed") showProblem(error, () => generate(request));
  }
  setRunning(null);
  finish(run, before);
}

/** Announces each quarter, not each step: a screen reader would fall behind. */
function announceQuarter(run, { step, steps }) {
  const quarter = Math.floor((4 * step) / steps);
  if (quarter > (run.quarter ?? 0) && quarter < 4) announce(`Step ${step} of ${steps}.`);
  run.quarter = quarter;
}

/** Shows the ended run; one without any frame leaves the run that was shown before. */
function finish(run, before) {
  const empty = isEmpty(run);
  if (!empty) remember(run);
  view.show(empty && before ? before : run);
  view.showEarlier(runs, true);
  if (run.state === "done" && !isSeedKept()) $("seed").value = run.images[0].seed;
  updateLinks();
  announce({ done: `Done in ${(run.total / 1000).toFixed(1)} seconds.`, stopped: "Stopped.", failed: "" }[run.state]);
}

function remember(run) {
  runs.unshift(run);
  for (const old of runs.splice(MAX_RUNS)) {
    releaseRun(old);
    for (const later of runs) if (later.parent === old) later.parent = null;
  }
}

/** Shows the Stop button during a run, else the Generate button; the keyboard's focus follows. */
function setRunning(controller) {
  running = controller;
  const [from, to] = running ? [$("generate"), $("stop")] : [$("stop"), $("generate")];
  const focused = document.activeElement === from;
  to.hidden = false;
  from.hidden = true;
  if (focused) to.focus({ preventScroll: true });
  view.showEarlier(runs, !running);
}

// --- Actions on the image ---

function pickImage(index) {
  view.run.chosen = index;
  view.run.frame = null;
  view.show(view.run);
  if (view.shown.image.seed !== undefined) $("seed").value = view.shown.image.seed;
  updateLinks();
}

function showRun(run) {
  view.show(run);
  view.showEarlier(runs, true);
  updateLinks();
}

/** Returns the request of the image that is shown, alone. */
function requestOfImage() {
  const { n, ...body } = view.run.body;
  return { ...body, seed: view.shown.image.seed };
}

/** Makes the address and the command those of what is shown: one image or several. An edit has no address. */
function updateLinks() {
  const { edit, chosen, body } = view.run;
  if (view.shown.image.seed === undefined) return;
  const request = chosen === null ? { ...body, seed: view.shown.image.seed } : requestOfImage();
  $("curl").textContent = curl(request, edit);
  if (edit) [$("image-file").href, $("mask-file").href] = edit.urls;
  setAddress(edit ? null : request, isSeedKept());
  gallery.save(runs, view.run);
}

function enterBrush() {
  view.run.frame = null;
  view.show(view.run);
  setBrushing(true);
  brush.open(model.grid);
  $("positions").focus();
}

function leaveBrush() {
  brush.close();
  setBrushing(false);
}

function setBrushing(isBrushing) {
  $("brush").hidden = !isBrushing;
  $("stage").toggleAttribute("data-brushing", isBrushing);
  $("generate").textContent = isBrushing ? "Regenerate" : "Generate";
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages over plain http from another machine have no clipboard.
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = "Copied";
  announce("Copied.");
  setTimeout(() => (button.textContent = name), 1500);
}

// --- Event listeners ---

const on = (id, event, listener) => $(id).addEventListener(event, listener);

on("form", "submit", submit);
on("form", "invalid", ({ target }) => {
  for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
}, true);
on("prompt", "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // isComposing: Enter ends a composed letter
  event.preventDefault();
  $("form").requestSubmit();
});
on("stop", "click", () => running?.abort());
on("steps-range", "input", () => ($("steps").value = $("steps-range").value));
on("steps", "input", () => ($("steps-range").value = $("steps").value));
on("seed", "input", () => keepSeed($("seed").value !== ""));
on("keep", "click", () => {
  keepSeed(!isSeedKept());
  history.replaceState({ isKept: isSeedKept() }, "");
});

on("edit", "click", enterBrush);
on("leave", "click", () => {
  leaveBrush();
  $("edit").focus();
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
  updateLinks();
  $("thumbnails").querySelector("input").focus();
});
on("back", "click", () => {
  showRun(view.run.parent);
  $("edit").focus(); // this button is hidden now
});
on("copy-curl", "click", () => copyText($("copy-curl"), $("curl").textContent));
on("copy-link", "click", () => copyText($("copy-link"), link(requestOfImage())));

addEventListener("hashchange", () => setSettings(settingsFromAddress()));
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  if (running) running.abort();
  else if (!$("brush").hidden) $("leave").click();
});

if (matchMedia("(max-width: 54rem)").matches) $("settings").open = false; // so that the image is near the prompt
if (matchMedia("(pointer: fine)").matches) $("prompt").focus();
setSettings(settingsFromAddress(), wasSeedKept());
load();
