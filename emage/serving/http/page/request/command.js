/** An image's request as a shell command. */

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
