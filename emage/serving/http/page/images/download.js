/** Images as files: one in a format of choice, or several as a zip with the settings of each. */

import { fileOf, newCanvas } from "./canvas.js";
import { isUpload, requestOf } from "./run.js";
import { zip } from "./zip.js";

const QUALITY = 0.95; // of JPEG and WebP, as the server's

/** Saves the frame of an image. `format`: png stands for the file that the server sent, which has lost nothing. */
export async function downloadFrame(image, frame, format) {
  const [blob, extension] = await encoded(frame, format);
  save(blob, `${fileName(image, frame)}.${extension}`);
}

/** Saves the finished images of the runs as a zip; settings.json in it has the request of each. */
export async function downloadAll(runs, format) {
  const files = [];
  const requests = [];
  const names = new Set();
  for (const run of runs.filter((run) => !isUpload(run))) {
    for (const [index, image] of run.images.entries()) {
      if (!image.blob) continue; // it was stopped
      const frame = image.frames.at(-1);
      const [blob, extension] = await encoded(frame, format);
      const name = unused(names, fileName(image, frame), extension);
      requests.push({ file: name, ...run.settings, ...requestOf(run, index), isEdit: Boolean(run.edit) });
      files.push([name, blob]);
    }
  }
  const settings = new Blob([JSON.stringify({ images: requests }, null, 2)]);
  save(await zip([...files, ["settings.json", settings]]), `emage-${files.length}-images.zip`);
}

/** Returns whether this browser can write images of a format: Safari has no WebP. */
export async function canEncode(format) {
  return (await fileOf(newCanvas(1, 1), format, QUALITY)).type === `image/${format}`;
}

/** Returns the frame as a file of the format, and its extension. */
async function encoded({ blob, format: sent }, format) {
  if (format === "png" || format === sent) return [blob, sent];
  const bitmap = await createImageBitmap(blob);
  const canvas = newCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return [await fileOf(canvas, format, QUALITY), format];
}

function fileName({ seed, frames, blob }, frame) {
  return `emage-${seed}${blob && frame === frames.at(-1) ? "" : `-step-${frame.step}`}`;
}

/** Returns a name that no other file has, and adds it to `names`: the same seed may be in several runs. */
function unused(names, stem, extension) {
  let name = `${stem}.${extension}`;
  for (let number = 2; names.has(name); number++) name = `${stem}-${number}.${extension}`;
  names.add(name);
  return name;
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may ask where to save it
}
