/** A run: one request and what came of it.
 *
 * `images` have `frames`, the passes as they came, and at the end a `blob`, the finished file. `chosen` is the one
 * that is shown large, null while none of several is picked; `frame` the frame that is looked at, null for the newest.
 * Times are milliseconds since the run began.
 */

export function begin({ body, edit, parent }) {
  const images = Array.from({ length: body.n ?? 1 }, () => ({ frames: [], blob: null, cut: false }));
  const chosen = images.length > 1 ? null : 0;
  return { body, edit, parent, images, chosen, frame: null, state: "drawing", started: performance.now() };
}

/** Adds what an event brings to its image. Returns the new frame. */
export function take(run, event) {
  const image = run.images[event.index];
  const previous = image.frames.at(-1);
  const { step, steps, known } = event;
  const blob = toBlob(event);
  const frame = { step, steps, known, at: elapsed(run), url: URL.createObjectURL(blob), format: event.output_format };
  if (event.type.endsWith(".completed")) {
    frame.step = frame.steps ??= previous?.steps ?? 1; // an image of one pass has no frame before
    frame.known = 1;
    Object.assign(image, { blob, cut: event.prompt_cut });
    if (previous?.step === frame.step) URL.revokeObjectURL(image.frames.pop().url); // the same, less exact
  }
  run.first ??= frame.at;
  image.seed = event.seed;
  image.frames.push(frame);
  return frame;
}

export function end(run, state) {
  Object.assign(run, { state, total: elapsed(run) });
}

export const isWhole = ({ images }) => images.every(({ blob }) => blob);
export const isEmpty = ({ images }) => images.every(({ frames }) => !frames.length);

/** Gives the memory of its images back. */
export function forget(run) {
  for (const { frames } of run.images) for (const { url } of frames) URL.revokeObjectURL(url);
  for (const url of run.edit?.urls ?? []) URL.revokeObjectURL(url);
}

function elapsed(run) {
  return performance.now() - run.started;
}

function toBlob({ b64_json: text, output_format: format }) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
}
