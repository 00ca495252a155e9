// Two comforts of the page: buttons that copy, and a line of text that tells of a field of the covered map.
// Without scripts everything can still be read; the buttons then stay hidden.
"use strict";

function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    return navigator.clipboard.writeText(text).catch(() => copySelected(text));
  }
  return copySelected(text); // pages of an artifact server over plain HTTP have no clipboard of their own
}

function copySelected(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "sr";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done ? Promise.resolve() : Promise.reject(new Error("the browser does not let pages copy"));
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  const status = button.parentElement.querySelector("[role=status]");
  button.hidden = false;
  button.addEventListener("click", () => {
    copyText(document.getElementById(button.dataset.copy).textContent).then(
      () => { status.textContent = "Copied"; },
      () => { status.textContent = "Could not copy: select the text"; },
    );
    setTimeout(() => { status.textContent = ""; }, 4000);
    button.focus();
  });
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

for (const grid of document.querySelectorAll("table.heat")) {
  const readout = document.getElementById(grid.dataset.readout);
  const rows = [...grid.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
  const tell = (field) => { readout.textContent = field.dataset.text; };
  let current = rows[0][0];
  current.tabIndex = 0;
  rows.forEach((row, y) => row.forEach((field, x) => {
    field.addEventListener("mouseenter", () => tell(field));
    field.addEventListener("click", () => move(y, x));
    field.addEventListener("focus", () => tell(field));
    field.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (step) {
        event.preventDefault();
        move(y + step[0], x + step[1]);
      }
    });
  }));
  function move(y, x) {
    const next = rows[y] && rows[y][x];
    if (next) {
      current.tabIndex = -1;
      current = next;
      current.tabIndex = 0;
      current.focus();
    }
  }
}
