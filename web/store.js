/** What the panel shows, kept up to date: asked from the routes at first, then told over ComfyUI's websocket. */

import { api } from "../../scripts/api.js";
import { language, t } from "./words.js";

const EVENT = "compact_parallel";
const ANSWER_MS = 30000;

/**
 * @typedef {object} Run the run of a pool that goes on, or its last one
 * @property {string} line what it is doing, in English
 * @property {[string, Record<string, string|number>][]} said the same in parts that can be translated
 * @property {string} outcome "", "done", "failed" or "cancelled"
 * @property {string} error
 * @property {string} run_id once done
 * @property {string} model
 * @property {number} step
 * @property {number} total 0 where nobody knows how many steps there will be
 * @property {number|null} seconds_per_step
 * @property {number} bytes_sent of worker 0
 * @property {number} bytes_uncompressed of worker 0
 * @property {number|null} effective_ratio
 * @property {number|null} rounds
 * @property {number|null} ahead
 */
/**
 * @typedef {object} Worker
 * @property {number} rank
 * @property {string} device
 * @property {string} state
 * @property {number|null} pid
 * @property {number} silent_seconds for how long it has not answered; 0 for a moment
 * @property {number} [device_bytes]
 * @property {number|null} process_bytes
 */
/**
 * @typedef {object} Pool
 * @property {string} name
 * @property {string} state
 * @property {string} backend
 * @property {string} error
 * @property {number} starts
 * @property {{bytes_per_second: number, latency_ms: number}|null} link
 * @property {Worker[]} workers
 * @property {Run|null} run
 */

/** Pools, reports (newest first) and whether the server answers. Fires "change". */
class Store extends EventTarget {
  /** @type {Pool[]} */ pools = [];
  /** @type {Record<string, any>[]} */ reports = [];
  /** @type {string} why nothing newer is known, "" if it is */ problem = "";
  loaded = false;
  #announced = false;

  constructor() {
    super();
    api.addEventListener(EVENT, (event) => this.#told(event.detail));
    api.addEventListener("reconnecting", () => {
      this.problem = t("The connection to ComfyUI is lost; trying again.");
      this.#announce();
    });
    api.addEventListener("reconnected", () => this.refresh());
  }

  /** Ask the routes for everything. */
  async refresh() {
    try {
      [this.pools, this.reports] = await Promise.all([ask("/parallel/pools"), ask(`/parallel/runs?language=${language()}`)]);
      this.problem = "";
      this.loaded = true;
    } catch (error) {
      this.problem = t("ComfyUI does not answer: {reason}", { reason: error.message });
    }
    this.#announce();
  }

  /** Ask for the pools alone: their memory, and workers that ended while nothing ran. */
  async refreshPools() {
    try {
      this.pools = await ask("/parallel/pools");
      this.#announce();
    } catch {
      return; // ComfyUI says itself when it is gone
    }
  }

  /**
   * Start, restart or stop a pool. What comes of it arrives as events.
   * @param {Pool} pool
   * @param {"start"|"restart"|"stop"} action
   * @returns {Promise<string>} what went wrong, "" if nothing did
   */
  async act(pool, action) {
    const name = encodeURIComponent(pool.name || "default");
    try {
      await ask(`/parallel/pools/${name}/${action}`, { method: "POST" });
      return "";
    } catch (error) {
      return error.message;
    } finally {
      await this.refreshPools();
    }
  }

  /** @param {string} runId @returns {Record<string, any>|undefined} the report of a run */
  report(runId) {
    return this.reports.find((report) => report.run_id === runId);
  }

  /** @param {{pools: Pool[], latest_run: string|null}} state */
  #told(state) {
    this.pools = state.pools;
    this.#announce();
    if (state.latest_run && !this.report(state.latest_run)) this.refresh();
  }

  /** Fires "change" at most once per frame, however fast the steps are. */
  #announce() {
    if (this.#announced) return;
    this.#announced = true;
    setTimeout(() => {
      this.#announced = false;
      this.dispatchEvent(new Event("change"));
    }, 30);
  }
}

/**
 * The JSON answer of a route. Throws an Error with the server's words, or after ANSWER_MS; what is given with `options`
 * may take longer.
 * @param {string} path
 * @param {RequestInit} [options]
 */
export async function ask(path, options = { signal: AbortSignal.timeout(ANSWER_MS) }) {
  const answer = await api.fetchApi(path, { cache: "no-store", ...options });
  if (answer.ok) return answer.json();
  const { error } = await answer.json().catch(() => ({}));
  throw new Error(error ?? t("{path} answered {status}", { path, status: answer.status }));
}

export const store = new Store();
