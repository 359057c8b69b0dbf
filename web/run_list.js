/** The runs since ComfyUI started, newest first; each opens to its figures, warnings and plot. */

import { api } from "../../scripts/api.js";
import { make, makeCopier, makeFigures } from "./elements.js";
import { formatTime } from "./format.js";
import { reported } from "./figures.js";
import { ask } from "./store.js";
import { t } from "./words.js";

const SHOWN = 20;

export class RunList {
  constructor() {
    this.empty = make("p", { class: "parallel-about" }, t("No run since ComfyUI started."));
    this.list = make("ol", { class: "parallel-runs", reversed: true });
    const title = make("h3", {}, t("Recent runs"));
    const label = t("Copy report for an issue");
    const hint = t("The last run's report, versions and devices, without paths and prompts");
    const copier = makeCopier(label, hint, async () => (await ask("/parallel/issue")).text);
    this.element = make("section", { "aria-label": t("Recent runs") }, title, this.empty, this.list, copier);
    /** @type {Map<string, HTMLElement>} */
    this.items = new Map();
  }

  /** @param {Record<string, any>[]} reports newest first */
  update(reports) {
    const shown = reports.slice(0, SHOWN);
    this.empty.hidden = shown.length > 0;
    const kept = new Set(shown.map((report) => report.run_id));
    for (const [runId, item] of this.items) {
      if (kept.has(runId)) continue;
      item.remove();
      this.items.delete(runId);
    }
    for (const report of [...shown].reverse()) {
      if (this.items.has(report.run_id)) continue;
      const item = runItem(report);
      this.items.set(report.run_id, item);
      this.list.prepend(item);
    }
  }
}

/** @param {Record<string, any>} report @returns {HTMLElement} */
function runItem(report) {
  const summary = make(
    "summary",
    {},
    make("span", { class: "parallel-when" }, formatTime(report.ended_at)),
    make("span", { class: "parallel-model" }, report.model),
    make("span", { class: "parallel-result" }, report.result),
  );
  const details = make("details", {}, summary);
  // What nobody opens is neither built nor drawn.
  details.addEventListener("toggle", () => details.append(...runDetails(report)), { once: true });
  return make("li", { "data-run": report.run_id }, details);
}

/** @param {Record<string, any>} report */
function runDetails(report) {
  const figures = makeFigures();
  for (const figure of reported(report)) figures.set(...figure);
  const notes = [...report.fallbacks, ...report.warnings].map((text) => make("li", {}, text));
  const source = api.apiURL(`/parallel/runs/${encodeURIComponent(report.run_id)}/plot`);
  const plot = make("img", { src: source, alt: t("Plot of the run: {result}", { result: report.result }) });
  const opens = { href: source, target: "_blank", rel: "noopener", title: t("Open the plot in a new tab") };
  const link = make("a", opens, plot);
  plot.addEventListener("error", () => link.replaceWith(t("The plot is gone: ComfyUI was restarted since.")));
  return [figures.element, ...(notes.length ? [make("ul", { class: "parallel-notes" }, ...notes)] : []), link];
}
