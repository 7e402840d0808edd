/** An image's request as a shell command, and as a link to this page. */

import { hasKey } from "./api.js";

/** Quotes text for a shell: within single quotes only a single quote has a meaning. */
export function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Returns a curl command that generates the same image again and writes it to a file. */
export function curl(body, isEdit) {
  const url = new URL(isEdit ? "v1/images/edits" : "v1/images/generations", document.baseURI);
  const parts = [`curl -sS ${quote(url.href)}`];
  if (hasKey()) parts.push('-H "Authorization: Bearer $EMAGE_API_KEY"'); // the key itself must not be copied
  if (isEdit) {
    parts.push("-F image=@emage-image.png", "-F mask=@emage-mask.png");
    // -F would read a file for a prompt that begins with @.
    for (const [name, value] of Object.entries(body)) parts.push(`--form-string ${quote(`${name}=${value}`)}`);
  } else {
    parts.push("-H 'Content-Type: application/json'", `-d ${quote(JSON.stringify(body))}`);
  }
  const save = `grep -o '"b64_json": *"[^"]*' | cut -d'"' -f4 | base64 -d > emage-${body.seed}.png`;
  return `${parts.join(" \\\n  ")} \\\n  | ${save}`;
}

/** Returns this page's address with the request's settings. */
export function link(body) {
  const url = new URL(document.baseURI);
  url.hash = new URLSearchParams(body);
  return url.href;
}

/** Makes the address that of a request, or of no request (null); `isKept` stays with it over a reload, not in a link. */
export function setAddress(body, isKept) {
  history.replaceState({ isKept }, "", body ? link(body) : new URL(document.baseURI).href.split("#")[0]);
}

/** Returns whether the seed was kept when this page was last shown; undefined if it was opened by a link. */
export const wasSeedKept = () => history.state?.isKept;

/** Returns the settings in this page's address by name; empty if it has none. */
export function settingsFromAddress() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}
