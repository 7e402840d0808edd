/** A run: one request, with the images that arrive for it.
 *
 * Each of `images` has `frames`, one per decoding step that was sent, and at the end a `blob`, the finished file. `chosen` is the index of the image that is shown large, null while none of several is picked; `frame`
 * the index of the frame that is shown, null for the newest. Times are milliseconds since the run began.
 */

export function beginRun({ body, edit, parent }) {
  const images = Array.from({ length: body.n ?? 1 }, () => ({ frames: [], blob: null, isTruncated: false }));
  const chosen = images.length > 1 ? null : 0;
  return { body, edit, parent, images, chosen, frame: null, state: "generating", started: performance.now() };
}

/** Adds the image of an event to the run. Returns the new frame. */
export function addEvent(run, event) {
  const image = run.images[event.index];
  const previous = image.frames.at(-1);
  const { step, steps, known: unmasked } = event;
  const blob = toBlob(event);
  const url = URL.createObjectURL(blob);
  const frame = { step, steps, unmasked, at: elapsed(run), blob, url, format: event.output_format };
  if (event.type.endsWith(".completed")) {
    frame.step = frame.steps ??= previous?.steps ?? 1; // an image of one step has no previous frame
    frame.unmasked = 1;
    Object.assign(image, { blob, isTruncated: event.prompt_cut });
    if (previous?.step === frame.step) URL.revokeObjectURL(image.frames.pop().url); // the same image, less exact
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

/** Frees the memory of a run's images. */
export function releaseRun(run) {
  for (const { frames } of run.images) for (const { url } of frames) URL.revokeObjectURL(url);
  for (const url of run.edit?.urls ?? []) URL.revokeObjectURL(url);
}

function elapsed(run) {
  return performance.now() - run.started;
}

function toBlob({ b64_json: text, output_format: format }) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
}
