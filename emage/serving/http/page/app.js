/** The playground: a form, the run that it starts, and the actions on an image. */

import { copyText } from "./clipboard.js";
import { BrushPanel } from "./images/brush_panel.js";
import { canEncode, downloadAll, downloadFrame } from "./images/download.js";
import * as gallery from "./images/gallery.js";
import { addEvent, beginRun, endRun, fileUrls, isComplete, isEmpty, isUpload } from "./images/run.js";
import { releaseRun, requestOf, uploadedRun } from "./images/run.js";
import { fitted, listenForFiles } from "./images/upload.js";
import { hideProblem, showProblem } from "./problem.js";
import { inAddress, link, remember, remembered, setAddress } from "./request/address.js";
import * as api from "./request/api.js";
import { curl } from "./request/command.js";
import { fault, isSeedKept, keepSeed, requestBody, setSettings, showExamples } from "./request/form.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const MAX_RUNS = 12; // kept in memory; more would fill that of a phone
const NOT_KEPT = [
  "The image of this address is not here",
  "An upload or an edit is kept for a day, by the browser that made it only. Download it to give it to others.",
];

let model = null;
let running = null; // the AbortController of the run in progress
let loadTimer; // calls load again if no model is ready yet
const runs = []; // newest first

const announce = (text) => ($("live").textContent = text);
const panel = new BrushPanel(announce);
const format = () => $("format").value;
const view = new View({
  onPick: pickImage,
  onReturn: showRun,
  onDownload: (image) => downloadFrame(image, image.frames.at(-1), format()),
});

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
  const { prompt, ...others } = inAddress(); // a prompt that was typed meanwhile stays
  setSettings({ ...model.sampling, ...others }, remembered().isKept);
  showExamples(model.examples.slice(0, 5));
  await restoreRuns();
  $("upload").disabled = false;
}

/** Brings back the runs of this tab, and shows the one that the address names. A link only fills the form. */
async function restoreRuns() {
  const kept = await gallery.restore();
  if (runs.length || running) return;
  runs.push(...kept);
  const named = inAddress();
  const run = await runOfKey(named.kept ?? remembered().run);
  if (!run) {
    view.showEarlier(runs, true);
    if (named.kept) showProblem(new api.Problem(...NOT_KEPT));
    return;
  }
  const index = named.image ? named.image - 1 : remembered().chosen;
  if (run.images[index]) run.chosen = index;
  if (named.kept && !isUpload(run)) setSettings(requestOf(run, run.chosen), remembered().isKept);
  showRun(run);
}

async function runOfKey(key) {
  return key && (runs.find((run) => run.key === key) ?? (await gallery.find(key)));
}

const imageSize = () => model.size.split("x").map(Number);

// --- A run ---

async function submit(event) {
  event.preventDefault();
  if (running) return;
  if (!model) await load();
  if (!model) return;
  const problem = fault();
  if (problem) return showFault(problem);
  const body = requestBody(model.sampling);
  if (!panel.isOpen) {
    generate({ body, edit: null, parent: null });
  } else if (panel.isMarked) {
    const edit = { image: view.shown.image.blob, mask: await panel.brush.mask(...imageSize()) };
    panel.close();
    generate({ body, edit, parent: view.run });
  } else {
    showProblem(new api.Problem("Nothing is marked yet", "Brush over the part to regenerate."));
  }
}

/** Shows what is wrong with the form, and leads to the field. */
function showFault(problem) {
  const field = $(problem.param);
  for (let at = field.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
  showProblem(problem);
  field.focus();
}

async function generate(request) {
  if (running) return;
  const before = view.run;
  const run = beginRun(request, model.sampling);
  hideProblem();
  setRunning(new AbortController());
  view.show(run);
  nameInAddress(run);
  $("progress-text").scrollIntoView({ block: "nearest" });
  announce("Generating.");
  try {
    for await (const event of api.generate(request.body, request.edit, running.signal)) {
      const frame = addEvent(run, event);
      view.update(run);
      if (event.index > 0) continue;
      if (run.images[0].frames.length === 1) nameInAddress(run); // the seed is known now
      announceQuarter(run, frame);
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
  if (!empty) add(run);
  if (run.state === "done" && !isSeedKept()) $("seed").value = run.images[0].seed;
  showRun(empty && before ? before : run);
  announce({ done: `Done in ${(run.total / 1000).toFixed(1)} seconds.`, stopped: "Stopped.", failed: "" }[run.state]);
}

/** Adds a run to the gallery, and lets the oldest go. */
function add(run) {
  runs.unshift(run);
  gallery.keep(run);
  for (const old of runs.splice(MAX_RUNS)) {
    releaseRun(old);
    gallery.forget(old);
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
  $("upload").disabled = Boolean(running);
  view.showEarlier(runs, !running);
}

// --- Which image is shown ---

function pickImage(index) {
  Object.assign(view.run, { chosen: index, frame: null });
  showRun(view.run);
  if (view.shown.image.seed !== undefined) $("seed").value = view.shown.image.seed;
}

function showRun(run) {
  view.show(run);
  view.showEarlier(runs, !running);
  nameInAddress(run);
  if (view.shown.image.seed === undefined) return;
  $("curl").textContent = curl(requestOf(run, run.chosen), run.edit);
  if (run.edit) [$("image-file").href, $("mask-file").href] = fileUrls(run.edit);
}

/** Makes the address that of what is shown: one image or all of several. */
function nameInAddress(run) {
  const { key, edit, chosen, images } = run;
  const kept = images.length > 1 && chosen !== null ? { kept: key, image: chosen + 1 } : { kept: key };
  setAddress(edit || isUpload(run) ? kept : requestOf(run, chosen), { run: key, chosen, isKept: isSeedKept() });
}

// --- Actions on the image ---

/** Shows an image of the user's own, to be brushed. */
async function upload(files) {
  if (running || !model) return announce("Not while an image is generated.");
  hideProblem();
  try {
    const run = uploadedRun(await fitted(files, imageSize()));
    panel.close();
    add(run);
    showRun(run);
    brush();
    announce(`${run.name} is shown. ${run.note}`);
  } catch (error) {
    showProblem(error);
  }
}

function brush() {
  view.run.frame = null;
  view.show(view.run);
  panel.open(model.grid);
  $("positions").focus();
}

/** Lists the formats that this browser can write. */
async function showFormats() {
  for (const option of $("format").options) option.hidden = option.disabled = !(await canEncode(option.value));
}

// --- Event listeners ---

const on = (id, event, listener) => $(id).addEventListener(event, listener);

on("form", "submit", submit);
on("prompt", "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // isComposing: Enter ends a composed letter
  event.preventDefault();
  $("form").requestSubmit();
});
on("stop", "click", () => running?.abort());
on("keep", "click", () => {
  keepSeed(!isSeedKept());
  remember({ isKept: isSeedKept() });
});

on("edit", "click", brush);
on("all", "click", () => {
  Object.assign(view.run, { chosen: null, frame: null });
  showRun(view.run);
  $("thumbnails").querySelector("input").focus();
});
on("back", "click", () => {
  showRun(view.run.parent);
  $("edit").focus(); // this button is hidden now
});
on("download", "click", () => downloadFrame(view.shown.image, view.shown.frame, format()));
on("zip", "click", () => downloadAll([view.run], format()));
on("zip-all", "click", () => downloadAll(runs, format()));
on("copy-curl", "click", () => copyText($("copy-curl"), $("curl").textContent).then(announce));
on("copy-link", "click", () => copyText($("copy-link"), link(requestOf(view.run, view.run.chosen))).then(announce));
listenForFiles(upload);

addEventListener("hashchange", () => location.reload()); // another address was typed: it is shown as a link is
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  if (running) running.abort();
  else if (panel.isOpen) $("leave").click();
});

if (matchMedia("(max-width: 54rem)").matches) $("settings").open = false; // so that the image is near the prompt
if (matchMedia("(pointer: fine)").matches) $("prompt").focus();
setSettings(inAddress(), remembered().isKept);
showFormats();
load();
