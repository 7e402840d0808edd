/** A run: one request, with the images that arrive for it; or an upload, which is a run of one image without a request.
 *
 * Each of `images` has `frames`, one per decoding step that was sent, and at the end a `blob`, the finished file.
 * `chosen` is the index of the image that is shown large, null while none of several is picked; `frame` the index of
 * the frame that is shown, null for the newest. `settings` are all of the request's, also those that `body` leaves to
 * the model. Times are milliseconds since the run began.
 */

import { newKey } from "./gallery.js";

export function beginRun({ body, edit, parent }, defaults) {
  const images = Array.from({ length: body.n ?? 1 }, () => ({ frames: [], blob: null, isTruncated: false }));
  const { n, seed, ...settings } = { ...defaults, ...body };
  return { ...newRun(images), body, settings, edit, parent, state: "generating", started: performance.now() };
}

/** Returns the run of an image of the user's own: `blob`, in the model's size. */
export function uploadedRun({ blob, name, note }) {
  const image = { frames: [{ blob, format: "png" }], blob, isTruncated: false };
  return { ...newRun([image]), body: { prompt: "" }, edit: null, parent: null, state: "uploaded", name, note };
}

function newRun(images) {
  return { key: newKey(), images, chosen: images.length > 1 ? null : 0, frame: null };
}

/** Adds the image of an event to the run. Returns the new frame. */
export function addEvent(run, event) {
  const image = run.images[event.index];
  const previous = image.frames.at(-1);
  const { step, steps, known: unmasked } = event;
  const blob = toBlob(event);
  const frame = { step, steps, unmasked, at: elapsed(run), blob, format: event.output_format };
  if (event.type.endsWith(".completed")) {
    frame.step = frame.steps ??= previous?.steps ?? 1; // an image of one step has no previous frame
    frame.unmasked = 1;
    Object.assign(image, { blob, isTruncated: event.prompt_cut });
    if (previous?.step === frame.step) releaseFrame(image.frames.pop()); // the same image, less exact
  }
  run.first ??= frame.at;
  image.seed = event.seed;
  image.frames.push(frame);
  return frame;
}

export function endRun(run, state) {
  Object.assign(run, { state, total: elapsed(run) });
}

export const isComplete = ({ images }) => images.every(({ blob }) => blob);
export const isEmpty = ({ images }) => images.every(({ frames }) => !frames.length);
export const isUpload = ({ state }) => state === "uploaded";

/** Returns what a run is called: its prompt, or the name of the file. */
export const title = (run) => (isUpload(run) ? run.name : run.body.prompt);

/** Returns the request of one of a run's images alone, or of all of them (null). It has a seed once that is known. */
export function requestOf({ body, images }, index) {
  const { n, ...alone } = body;
  const { seed } = images[index ?? 0];
  return { ...(index === null ? body : alone), ...(seed !== undefined && { seed }) };
}

/** Returns a frame's address within this page. It is made when it is first asked for, and kept until it is released. */
export function urlOf(frame) {
  return (frame.url ??= URL.createObjectURL(frame.blob));
}

/** Returns the addresses of an edit's two files. */
export function fileUrls(edit) {
  return (edit.urls ??= [edit.image, edit.mask].map((blob) => URL.createObjectURL(blob)));
}

/** Frees the memory of a run's images. */
export function releaseRun(run) {
  for (const { frames } of run.images) frames.forEach(releaseFrame);
  for (const url of run.edit?.urls ?? []) URL.revokeObjectURL(url);
}

function releaseFrame({ url }) {
  if (url) URL.revokeObjectURL(url);
}

function elapsed(run) {
  return performance.now() - run.started;
}

function toBlob({ b64_json: text, output_format: format }) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
}
