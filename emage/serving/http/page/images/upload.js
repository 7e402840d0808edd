/** An image of the user's own: picked, dropped or pasted, and fitted to the model's size in this browser.
 *
 * Only the fitted pixels are kept and sent, and only to this server, when a part of them is regenerated.
 */

import { Problem } from "../request/api.js";
import { fileOf, newCanvas } from "./canvas.js";

const MAX_FILE_MB = 100; // a larger one might fill the memory of a phone
const $ = (id) => document.getElementById(id);

/** Calls `onFiles` with the files that are picked, dropped anywhere on the page, or pasted. */
export function listenForFiles(onFiles) {
  $("upload").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    onFiles([...$("file").files]);
    $("file").value = ""; // so that the same file can be picked again
  });

  let isFromPage = false; // an image of this page that is dragged is no upload
  addEventListener("dragstart", () => (isFromPage = true));
  addEventListener("dragend", () => (isFromPage = false));
  const isOver = (over) => document.body.toggleAttribute("data-dropping", over);
  const isUpload = ({ types }) => !isFromPage && /Files|uri-list/.test(types.join()); // not text for the prompt
  addEventListener("dragover", (event) => {
    if (!isUpload(event.dataTransfer)) return;
    event.preventDefault(); // else the browser opens the file in place of this page
    event.dataTransfer.dropEffect = "copy";
    isOver(true);
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? isOver(false));
  addEventListener("drop", (event) => {
    if (!isUpload(event.dataTransfer)) return;
    event.preventDefault();
    isOver(false);
    onFiles([...event.dataTransfer.files]);
  });

  addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    if (!files.length || types.includes("text/plain")) return; // text with its picture, as of an office program
    event.preventDefault();
    onFiles([...files]);
  });
}

/**
 * Returns the first image of the files, with its name and a note about how it was fitted.
 *
 * The middle of it that has the model's shape is scaled to [width, height]. It stands as its EXIF orientation says;
 * transparent parts are white, as the server makes them.
 */
export async function fitted(files, [width, height]) {
  const file = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (!file) throw new Problem("This is not a file", "Save the image on this machine first, and pick the file.");
  const name = file.name || "Pasted image";
  if (file.size > MAX_FILE_MB * 1e6) {
    const message = `“${name}” has ${Math.round(file.size / 1e6)} MB, and ${MAX_FILE_MB} MB are read at most.`;
    throw new Problem("This image is too large", message);
  }
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!bitmap) {
    const message = `This browser can't read “${name}”. Save it as JPEG, PNG, WebP, GIF or AVIF.`;
    throw new Problem("This is not an image", message);
  }
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [cropWidth, cropHeight] = [width / scale, height / scale];
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const corner = [(bitmap.width - cropWidth) / 2, (bitmap.height - cropHeight) / 2];
  context.drawImage(bitmap, ...corner, cropWidth, cropHeight, 0, 0, width, height);
  const note = fittedText([bitmap.width, bitmap.height], [cropWidth, cropHeight].map(Math.round), [width, height]);
  bitmap.close();
  return { blob: await fileOf(canvas, "png"), name, note };
}

function fittedText(whole, crop, fit) {
  const by = (pair) => pair.join(" × ");
  if (by(whole) === by(fit)) return `${by(fit)} pixels, the model's size.`;
  const part = by(whole) === by(crop) ? by(whole) : `the middle ${by(crop)} of ${by(whole)}`;
  return `Fitted to the model: ${part} pixels, scaled to ${by(fit)}.`;
}
