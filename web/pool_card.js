/** One pool in the panel: its workers, the run that goes on, and its buttons. */

import { app } from "../../scripts/app.js";
import { make, makeFigures, makeMessage, setText } from "./elements.js";
import { live, reported } from "./figures.js";
import { formatBytes, formatSeconds } from "./format.js";
import { store } from "./store.js";
import { plural, t } from "./words.js";

const BUSY = ["starting", "sampling"];
const MEASURED = ["idle", "sampling", "finishing"];
const STARTING = ["Starting {count} worker", "Starting {count} workers"];
const ENDS = ["This ends {count} worker and frees its memory.", "This ends {count} workers and frees their memory."];

export class PoolCard {
  #acting = false;

  /** @param {import("./store.js").Pool} pool */
  constructor(pool) {
    this.pool = pool;
    this.title = make("h3", {}, pool.name || t("Default pool"));
    this.badge = make("span", { class: "parallel-badge" });
    this.about = make("p", { class: "parallel-about" });
    this.line = make("p", { class: "parallel-line" });
    this.progress = make("progress", { "aria-label": t("Sampling steps") });
    this.figures = makeFigures();
    this.error = makeMessage(t("Error of this pool"));
    this.workers = make("tbody");
    this.buttons = {
      start: this.#button(t("Start"), t("Start the workers now instead of with the next run"), () =>
        this.#act("start"),
      ),
      restart: this.#button(t("Restart"), t("End the workers and start new ones"), () => this.#act("restart")),
      stop: this.#button(t("Stop"), t("End the workers and give back their memory"), () => this.#stop()),
    };
    const heads = [t("Worker"), t("State"), t("Memory")].map((name) => make("th", { scope: "col" }, name));
    this.element = make(
      "section",
      { class: "parallel-pool", "aria-label": t("Pool {name}", { name: pool.name || "default" }), "data-pool": pool.name },
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
    setText(this.badge, t(pool.state));
    this.badge.dataset.state = pool.state;
    setText(this.about, about(pool));
    this.#updateRun(pool);
    this.#updateWorkers(pool.workers);
    const dead = pool.workers.some((worker) => worker.state === "dead");
    const busy = this.#acting || BUSY.includes(pool.state);
    setDisabled(this.buttons.start, busy || pool.state === "finishing" || (pool.state === "idle" && !dead));
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
    const said = run ? run.said.map(([text, values]) => t(text, values)).join(", ") : t("No run yet.");
    const line = run?.outcome === "failed" ? t("The last run failed.") : said;
    setText(this.line, starting ? `${plural(pool.workers.length, ...STARTING)}, ${t("{ready} ready", { ready })}` : line);
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
      name.title = worker.pid ? t("process {pid}", { pid: worker.pid }) : "";
      setText(state, stateOf(worker));
      state.dataset.state = worker.silent_seconds ? "silent" : worker.state;
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
    const parts = [
      plural(this.pool.workers.length, ...ENDS),
      this.pool.state === "sampling" ? t("The run that goes on fails.") : "",
      t("They start again with the next run."),
    ];
    const sure = await app.extensionManager.dialog.confirm({
      title: t("Stop the workers?"),
      message: parts.filter(Boolean).join(" "),
    });
    if (sure) await this.#act("stop");
  }
}

/** @param {import("./store.js").Pool} pool */
function about(pool) {
  const parts = [plural(pool.workers.length, "{count} worker", "{count} workers"), pool.backend];
  if (pool.link && MEASURED.includes(pool.state)) {
    const { bytes_per_second: bandwidth, latency_ms: latency } = pool.link;
    const link = { bandwidth: `${formatBytes(bandwidth)}/s`, latency: formatSeconds(latency / 1e3) };
    parts.push(t("link {bandwidth}, {latency}", link));
  }
  return parts.join(" · ");
}

/** The news that workers ended without a run to fail. @param {import("./store.js").Pool} pool */
function endedWhileIdle(pool) {
  const ended = pool.workers.filter((worker) => worker.state === "dead");
  if (pool.state !== "idle" || !ended.length) return "";
  const names = ended.map((worker) => t("Worker {rank} ({device}), process {pid}, ended.", { ...worker }));
  return [...names, t("The pool restarts on the next run, or with Start.")].join(" ");
}

/** Disabled buttons keep the keyboard's focus. @param {HTMLElement} button @param {boolean} disabled */
function setDisabled(button, disabled) {
  button.ariaDisabled = String(disabled);
}

/** @param {import("./store.js").Worker} worker */
function stateOf(worker) {
  const silence = { seconds: worker.silent_seconds };
  return worker.silent_seconds
    ? `${t(worker.state)}, ${t("has not answered for {seconds} s", silence)}`
    : t(worker.state);
}

/** @param {import("./store.js").Worker} worker */
function memoryOf(worker) {
  return formatBytes(worker.device === "cpu" ? worker.process_bytes : worker.pid ? worker.device_bytes : null);
}

/** @param {import("./store.js").Worker} worker */
function memoryHint(worker) {
  if (!worker.pid) return "";
  const bytes = { bytes: formatBytes(worker.process_bytes) };
  const main = t("{bytes} of main memory, files it shares with others included", bytes);
  if (worker.device === "cpu") return main;
  const own = { bytes: formatBytes(worker.device_bytes), device: worker.device };
  return `${t("{bytes} on {device}", own)}; ${main}`;
}
