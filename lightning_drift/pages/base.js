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
document.querySelectorAll("[data-copy]").forEach((button) => {
  const code = byId(button.dataset.copy);
  button.addEventListener("click", () => copy(button, code.textContent, code));
});
// A dialog also closes by its button and by a click beside it.
document.querySelectorAll("dialog").forEach((dialog) => {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (e) => e.target === dialog && dialog.close());
});
