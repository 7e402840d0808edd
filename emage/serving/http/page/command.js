/** An image's request as a shell command, and as a link to this page. */

import { hasKey } from "./api.js";

/** Nothing within single quotes means anything to a shell, except their end. */
export function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A curl command that draws the same image again and writes it to a file. */
export function curl(body, edited) {
  const url = new URL(edited ? "v1/images/edits" : "v1/images/generations", document.baseURI);
  const parts = [`curl -sS ${quote(url.href)}`];
  if (hasKey()) parts.push('-H "Authorization: Bearer $EMAGE_API_KEY"'); // the key itself is not for a clipboard
  if (edited) {
    parts.push("-F image=@emage-image.png", "-F mask=@emage-mask.png");
    // -F would read a file for a prompt that begins with @.
    for (const [name, value] of Object.entries(body)) parts.push(`--form-string ${quote(`${name}=${value}`)}`);
  } else {
    parts.push("-H 'Content-Type: application/json'", `-d ${quote(JSON.stringify(body))}`);
  }
  const image = `grep -o '"b64_json": *"[^"]*' | cut -d'"' -f4 | base64 -d > emage-${body.seed}.png`;
  return `${parts.join(" \\\n  ")} \\\n  | ${image}`;
}

export function link(body) {
  const url = new URL(document.baseURI);
  url.hash = new URLSearchParams(body);
  return url.href;
}

/** The settings in the address, by name; empty without any. */
export function fromAddress() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}
