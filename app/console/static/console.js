// What htmx does not do: copy a command, say changes in one line for screen readers, tell when the service is away.
"use strict";

const say = (text) => {
  const line = document.getElementById("said");
  if (text && line.textContent !== text) line.textContent = text;
};

const sayWhatChanged = () => say(document.querySelector("[data-said]")?.dataset.said);

const showConnection = (isThere) => {
  document.getElementById("connection").hidden = isThere;
  if (!isThere) say("The service does not answer");
};

document.addEventListener("htmx:error", () => showConnection(false));
document.addEventListener("htmx:response:error", () => showConnection(false));
document.addEventListener("htmx:after:swap", () => {
  showConnection(true);
  sayWhatChanged();
});
document.addEventListener("DOMContentLoaded", sayWhatChanged);

const copy = async (element) => {
  try {
    await navigator.clipboard.writeText(element.textContent);
    say("Copied");
  } catch {
    // Browsers have no clipboard for pages on plain http from another machine: select it, for Ctrl+C.
    getSelection().selectAllChildren(element);
    say("Selected, press Control C");
  }
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) void copy(document.getElementById(button.dataset.copy));
});
