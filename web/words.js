/** What the panel says, in the language of ComfyUI's settings: English stands in the code, the rest in locales/. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** @type {Record<string, string>} translations by what the code says */
let words = {};

/** @returns {string} the language that is set now */
export function language() {
  return app.extensionManager.setting.get("Comfy.Locale");
}

/** Get the words of the language that is set now. */
export async function loadWords() {
  const answer = await api.fetchApi("/i18n");
  words = answer.ok ? ((await answer.json())[language()]?.compactParallel ?? {}) : {};
}

/**
 * A text in the chosen language, in English where there is no translation.
 * @param {string} english with {name} where a value goes
 * @param {Record<string, string|number>} [values]
 * @returns {string}
 */
export function t(english, values = {}) {
  return (words[english] ?? english).replace(/\{(\w+)\}/g, (hole, name) => String(values[name] ?? hole));
}

/**
 * A text about a number of things.
 * @param {number} count
 * @param {string} one "{count} worker"
 * @param {string} more "{count} workers"
 * @returns {string}
 */
export function plural(count, one, more) {
  return t(count === 1 ? one : more, { count });
}
