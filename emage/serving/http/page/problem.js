/** What went wrong, kindly: what it is, what to do, and a button to do it. */

import { Problem, setKey } from "./api.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["prompt", "steps", "seed", "order", "schedule", "temperature", "guidance"];

let again; // what the button does
let countdown;

export function complain(error, retry) {
  forgive();
  if (!(error instanceof Problem)) {
    console.error(error); // a fault of this page: for whoever looks into it
    error = new Problem("This page stumbled", "It could not make sense of the server's answer.");
  }
  const { title, message, status, wait, param } = error;
  const [strong, p] = ["strong", "p"].map((tag) => document.createElement(tag));
  strong.textContent = title;
  p.textContent = message;
  $("problem").hidden = false;
  $("problem-text").replaceChildren(strong, p);
  $("problem").scrollIntoView({ block: "nearest" });
  again = retry;
  $("key-form").hidden = status !== 401;
  const mayPass = status === 0 || status === 408 || status === 429 || status >= 500;
  $("retry").hidden = !retry || !mayPass;
  count(wait);
  if (FIELDS.includes(param)) $(param).ariaInvalid = "true";
}

export function forgive() {
  clearTimeout(countdown);
  $("problem").hidden = true;
  $("problem-text").replaceChildren();
  for (const name of FIELDS) $(name).ariaInvalid = null;
}

/** The button is there when trying again makes sense. */
function count(seconds) {
  $("retry").disabled = seconds > 0;
  $("retry").textContent = seconds > 0 ? `Try again in ${seconds} s` : "Try again";
  if (seconds <= 0) return;
  countdown = setTimeout(() => count(seconds - 1), 1000);
}

$("retry").addEventListener("click", () => {
  $("draw").focus({ preventScroll: true }); // this button is about to go, and the focus with it
  again();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  $("key").value = "";
  $("draw").focus({ preventScroll: true });
  again();
});
