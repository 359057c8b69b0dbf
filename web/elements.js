/** The few words in which the panel builds its elements. */

import { t } from "./words.js";

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, any>} [properties] of the element; `class`, `data-…` and `aria-…` become attributes
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/**
 * Set a text only where it differs, so that a selection inside it lives on.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A list of names and values: `set(name, value)` changes one, null takes it away.
 * @returns {{element: HTMLElement, set: (name: string, value: string|null, hint?: string) => void}}
 */
export function makeFigures() {
  const element = make("dl", { class: "parallel-figures" });
  /** @type {Map<string, {row: HTMLElement, value: HTMLElement}>} */
  const rows = new Map();
  return {
    element,
    set(name, value, hint = "") {
      let entry = rows.get(name);
      if (value == null) {
        entry?.row.remove();
        rows.delete(name);
        return;
      }
      if (!entry) {
        const cell = make("dd");
        entry = { row: make("div", { title: hint }, make("dt", {}, name), cell), value: cell };
        rows.set(name, entry);
        element.append(entry.row);
      }
      setText(entry.value, value);
    },
  };
}

/**
 * A text that can be read whole and copied; hidden while it is empty.
 * @param {string} label what a screen reader calls it
 * @returns {{element: HTMLElement, set: (text: string) => void}}
 */
export function makeMessage(label) {
  const text = make("pre", { tabIndex: 0, "aria-label": label });
  const copy = make("button", { type: "button", class: "parallel-button" }, t("Copy"));
  const element = make("div", { class: "parallel-error", role: "alert", hidden: true }, text, copy);
  copy.addEventListener("click", () => copyOf(text, copy, t("Copy")));
  return {
    element,
    set(message) {
      element.hidden = !message;
      setText(text, message);
    },
  };
}

/**
 * A button that gets a text, shows it whole below and copies it.
 * @param {string} label
 * @param {string} hint
 * @param {() => Promise<string>} get
 * @returns {HTMLElement}
 */
export function makeCopier(label, hint, get) {
  const text = make("pre", { tabIndex: 0, "aria-label": label, hidden: true });
  const copy = make("button", { type: "button", class: "parallel-button", title: hint }, label);
  copy.addEventListener("click", async () => {
    text.hidden = false;
    try {
      setText(text, await get());
    } catch (error) {
      setText(text, t("ComfyUI does not answer: {reason}", { reason: error.message }));
      return;
    }
    await copyOf(text, copy, label);
  });
  return make("div", { class: "parallel-copier" }, copy, text);
}

/** Copy an element's text, and say so on the button for a while. @param {HTMLElement} text @param {string} label */
async function copyOf(text, button, label) {
  setText(button, (await copied(text)) ? t("Copied") : t("Press Ctrl+C"));
  setTimeout(() => setText(button, label), 2000);
}

/**
 * Copy an element's text; where the browser does not allow it (a page without https), select it.
 * @param {HTMLElement} element
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
async function copied(element) {
  try {
    await navigator.clipboard.writeText(element.textContent ?? "");
    return true;
  } catch {
    window.getSelection()?.selectAllChildren(element);
    return document.execCommand("copy");
  }
}
