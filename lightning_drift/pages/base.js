"use strict";
const byId = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
// Copies a command; without permission the element that shows it is selected, or the text is offered in a prompt.
const copy = async (button, text, shown = null) => {
  button.dataset.label ??= button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = button.dataset.label; }, 1600);
  } catch {
    if (shown) getSelection().selectAllChildren(shown);
    else prompt("Copy this command:", text);
  }
};
// By delegation, for HTML that comes later too: commands are copied by their buttons, and a dialog closes by its
// button and by a click beside it.
document.addEventListener("click", (e) => {
  const button = e.target.closest("[data-copy], dialog .close");
  if (button?.dataset.copy) copy(button, byId(button.dataset.copy).textContent, byId(button.dataset.copy));
  else if (button) button.closest("dialog").close();
  else if (e.target.matches("dialog")) e.target.close();
});
