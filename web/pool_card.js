/** One pool in the panel: its workers, the run that goes on, and its buttons. */

import { app } from "../../scripts/app.js";
import { make, makeFigures, makeMessage, setText } from "./elements.js";
import { formatBytes, formatRatio, formatSeconds, formatShare, plural } from "./format.js";
import { store } from "./store.js";

const BUSY = ["starting", "sampling"];
const MEASURED = ["idle", "sampling"];

export class PoolCard {
  #acting = false;

  /** @param {import("./store.js").Pool} pool */
  constructor(pool) {
    this.pool = pool;
    this.title = make("h3", {}, pool.name || "Default pool");
    this.badge = make("span", { class: "parallel-badge" });
    this.about = make("p", { class: "parallel-about" });
    this.line = make("p", { class: "parallel-line" });
    this.progress = make("progress", { "aria-label": "Sampling steps" });
    this.figures = makeFigures();
    this.error = makeMessage("Error of this pool");
    this.workers = make("tbody");
    this.buttons = {
      start: this.#button("Start", "Start the workers now instead of with the next run", () => this.#act("start")),
      restart: this.#button("Restart", "End the workers and start new ones", () => this.#act("restart")),
      stop: this.#button("Stop", "End the workers and give back their memory", () => this.#stop()),
    };
    const heads = ["Worker", "State", "Memory"].map((name) => make("th", { scope: "col" }, name));
    this.element = make(
      "section",
      { class: "parallel-pool", "aria-label": `Pool ${pool.name || "default"}`, "data-pool": pool.name },
      make("header", {}, this.title, this.badge),
      this.about,
      this.line,
      this.progress,
      this.figures.element,
      this.error.element,
      make("table", { class: "parallel-workers" }, make("thead", {}, make("tr", {}, ...heads)), this.workers),
      make("div", { class: "parallel-buttons" }, ...Object.values(this.buttons)),
    );
    this.update(pool);
  }

  /** Show what is known now. @param {import("./store.js").Pool} pool */
  update(pool) {
    this.pool = pool;
    setText(this.badge, pool.state);
    this.badge.dataset.state = pool.state;
    setText(this.about, about(pool));
    this.#updateRun(pool);
    this.#updateWorkers(pool.workers);
    const dead = pool.workers.some((worker) => worker.state === "dead");
    const busy = this.#acting || BUSY.includes(pool.state);
    setDisabled(this.buttons.start, busy || (pool.state === "idle" && !dead));
    setDisabled(this.buttons.restart, busy);
    setDisabled(this.buttons.stop, pool.state === "stopped");
  }

  /** @param {import("./store.js").Pool} pool */
  #updateRun(pool) {
    const { run } = pool;
    this.error.set(pool.error || (run?.outcome === "failed" && run.error) || endedWhileIdle(pool));
    const starting = pool.state === "starting" && (!run || run.outcome); // from this panel, not for a run
    const ready = pool.workers.filter((worker) => worker.state === "idle").length;
    // The error is shown whole below the line.
    const line = run?.outcome === "failed" ? "The last run failed." : (run?.line ?? "No run yet.");
    setText(this.line, starting ? `Starting ${plural(pool.workers.length, "worker")}, ${ready} ready` : line);
    this.progress.hidden = !run || Boolean(run.outcome);
    if (run?.total) {
      this.progress.max = run.total;
      this.progress.value = run.step;
    } else {
      this.progress.removeAttribute("value");
    }
    const report = run?.outcome === "done" ? store.report(run.run_id) : undefined;
    this.element.dataset.run = report?.run_id ?? "";
    for (const figure of report ? reported(report) : live(run)) this.figures.set(...figure);
  }

  /** @param {import("./store.js").Worker[]} workers */
  #updateWorkers(workers) {
    while (this.workers.rows.length > workers.length) this.workers.lastChild.remove();
    workers.forEach((worker, place) => {
      const fresh = () => this.workers.appendChild(make("tr", {}, make("td"), make("td"), make("td")));
      const row = this.workers.rows[place] ?? fresh();
      const [name, state, memory] = row.cells;
      setText(name, `${worker.rank} · ${worker.device}`);
      name.title = worker.pid ? `process ${worker.pid}` : "";
      setText(state, worker.state);
      state.dataset.state = worker.state;
      setText(memory, memoryOf(worker));
      memory.title = memoryHint(worker);
    });
  }

  /** @param {string} label @param {string} hint @param {() => void} pressed */
  #button(label, hint, pressed) {
    const button = make("button", { type: "button", class: "parallel-button", title: hint }, label);
    button.addEventListener("click", () => button.ariaDisabled === "true" || pressed());
    return button;
  }

  /** @param {"start"|"restart"|"stop"} action */
  async #act(action) {
    this.#acting = true;
    this.update(this.pool);
    const problem = await store.act(this.pool, action);
    this.#acting = false;
    this.update(this.pool);
    if (problem) this.error.set(problem);
  }

  async #stop() {
    const running = this.pool.state === "sampling" ? " The run that goes on fails." : "";
    const ends = `This ends ${plural(this.pool.workers.length, "worker")} and frees their memory.`;
    const sure = await app.extensionManager.dialog.confirm({
      title: "Stop the workers?",
      message: `${ends}${running} They start again with the next run.`,
    });
    if (sure) await this.#act("stop");
  }
}

/** @param {import("./store.js").Pool} pool */
function about(pool) {
  const parts = [plural(pool.workers.length, "worker"), pool.backend];
  if (pool.link && MEASURED.includes(pool.state)) {
    const { bytes_per_second: bandwidth, latency_ms: latency } = pool.link;
    parts.push(`link ${formatBytes(bandwidth)}/s, ${formatSeconds(latency / 1e3)}`);
  }
  return parts.join(" · ");
}

/** The news that workers ended without a run to fail. @param {import("./store.js").Pool} pool */
function endedWhileIdle(pool) {
  const ended = pool.workers.filter((worker) => worker.state === "dead");
  if (pool.state !== "idle" || !ended.length) return "";
  const names = ended.map((worker) => `Worker ${worker.rank} (${worker.device}), process ${worker.pid},`).join(" ");
  return `${names} ended; the pool restarts on the next run, or with Start.`;
}

/** Disabled buttons keep the keyboard's focus. @param {HTMLElement} button @param {boolean} disabled */
function setDisabled(button, disabled) {
  button.ariaDisabled = String(disabled);
}

/** @param {import("./store.js").Worker} worker */
function memoryOf(worker) {
  return formatBytes(worker.device === "cpu" ? worker.process_bytes : worker.pid ? worker.device_bytes : null);
}

/** @param {import("./store.js").Worker} worker */
function memoryHint(worker) {
  if (!worker.pid) return "";
  const main = `${formatBytes(worker.process_bytes)} of main memory, files it shares with others included`;
  return worker.device === "cpu" ? main : `${formatBytes(worker.device_bytes)} on ${worker.device}; ${main}`;
}

const NAMES = {
  seconds: "Seconds per step",
  sent: "Sent",
  raw: "At 16 bits",
  ratio: "Ratio",
  reuse: "Look-ahead",
  error: "Worst error",
};
const HINTS = {
  seconds: "Seconds of sampling by steps",
  sent: "Bytes that the workers put on links",
  raw: "The same tensors at 16 bits per value",
  ratio: "How much less was sent than at 16 bits",
  reuse: "Step Reuse: calls of a round beyond its first that were kept, and rounds of model calls",
  error: "Largest relative error of a sent tensor",
};

/**
 * @param {Record<keyof NAMES, string|null>} values
 * @returns {[string, string|null, string][]} names, values and hints
 */
function named(values) {
  return Object.entries(values).map(([key, value]) => [NAMES[key], value, HINTS[key]]);
}

/** The figures of a run that goes on (or of one that did not end well). @param {import("./store.js").Run|null} run */
function live(run) {
  const known = run && run.step > 0;
  const sent = known && run.bytes_sent > 0;
  return named({
    seconds: known ? formatSeconds(run.seconds_per_step) : null,
    sent: sent ? `${formatBytes(run.bytes_sent)} by worker 0` : null,
    raw: sent ? formatBytes(run.bytes_uncompressed) : null,
    ratio: sent ? formatRatio(run.effective_ratio) : null,
    reuse: known && run.rounds != null ? `${run.ahead} ahead in ${plural(run.rounds, "round")}` : null,
    error: null,
  });
}

/** The figures of a run that is done, from its report. @param {Record<string, any>} report */
export function reported(report) {
  const sent = report.bytes_sent > 0;
  const ahead = `${report.calls - report.rounds} ahead in ${plural(report.rounds, "round")}`;
  return named({
    seconds: report.steps ? formatSeconds(report.sampling_seconds / report.steps) : null,
    sent: sent ? `${formatBytes(report.bytes_sent)} by all` : null,
    raw: sent ? formatBytes(report.bytes_uncompressed) : null,
    ratio: sent ? formatRatio(report.effective_ratio) : null,
    reuse: report.step_reuse.mode === "off" ? null : ahead,
    error: report.max_relative_error == null ? null : formatShare(report.max_relative_error),
  });
}
