/** The problem box: what went wrong, what to do about it, and a button that does it. */

import { Problem, setKey } from "./request/api.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["prompt", "steps", "seed", "order", "schedule", "temperature", "guidance"];

let retryAction; // what the button does
let countdown;

export function showProblem(error, retry) {
  hideProblem();
  if (!(error instanceof Problem)) {
    console.error(error); // a bug of this page
    error = new Problem("This page has a bug", "It can't read the server's answer; the console has more.");
  }
  const { title, message, status, retryS, param } = error;
  const [strong, p] = ["strong", "p"].map((tag) => document.createElement(tag));
  strong.textContent = title;
  p.textContent = message;
  $("problem").hidden = false;
  $("problem-text").replaceChildren(strong, p);
  $("problem").scrollIntoView({ block: "nearest" });
  retryAction = retry;
  $("key-form").hidden = status !== 401;
  const isTemporary = status === 0 || status === 408 || status === 429 || status >= 500;
  $("retry").hidden = !retry || !isTemporary;
  countDown(retryS);
  if (FIELDS.includes(param)) $(param).ariaInvalid = "true";
}

export function hideProblem() {
  clearTimeout(countdown);
  $("problem").hidden = true;
  $("problem-text").replaceChildren();
  for (const name of FIELDS) $(name).ariaInvalid = null;
}

/** Enables the button after the seconds of the server's Retry-After. */
function countDown(seconds) {
  $("retry").disabled = seconds > 0;
  $("retry").textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
  if (seconds <= 0) return;
  countdown = setTimeout(() => countDown(seconds - 1), 1000);
}

$("retry").addEventListener("click", () => {
  $("generate").focus({ preventScroll: true }); // this button is about to be hidden and would lose the focus
  retryAction();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  $("key").value = "";
  $("generate").focus({ preventScroll: true });
  retryAction();
});
