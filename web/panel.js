/** The sidebar tab: every pool, then the recent runs. */

import { make, setText } from "./elements.js";
import { PoolCard } from "./pool_card.js";
import { RunList } from "./run_list.js";
import { store } from "./store.js";
import { t } from "./words.js";

const POLL_MS = 5000;
const NO_WORKERS =
  "No workers yet. Put the node Parallel Model between a model loader and a sampler: the workers start with the " +
  "first run and stay warm.";

/** Fills an element for as long as the tab is open. */
export class Panel {
  /** @type {Map<string, PoolCard>} */ #cards = new Map();
  #runs = new RunList();
  #pools = make("div");
  #problem = make("p", { class: "parallel-problem", role: "alert", hidden: true });
  #empty = make("p", { class: "parallel-about" }, t(NO_WORKERS));
  #update = () => this.#show();

  /** @param {HTMLElement} root */
  constructor(root) {
    const parts = [make("h2", {}, t("Parallel")), this.#problem, this.#empty, this.#pools, this.#runs.element];
    root.replaceChildren(make("div", { class: "parallel-panel" }, ...parts));
    store.addEventListener("change", this.#update);
    // Events tell of changes; memory, and the end of a worker that had nothing to do, are looked up.
    this.timer = setInterval(() => document.hidden || store.refreshPools(), POLL_MS);
    this.#show();
    store.refresh();
  }

  /** The tab is closed. */
  close() {
    clearInterval(this.timer);
    store.removeEventListener("change", this.#update);
  }

  #show() {
    this.#problem.hidden = !store.problem;
    setText(this.#problem, store.problem);
    this.#empty.hidden = !store.loaded || store.pools.length > 0;
    const names = new Set(store.pools.map((pool) => pool.name));
    for (const [name, card] of this.#cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    for (const pool of store.pools) {
      const card = this.#cards.get(pool.name);
      if (card) card.update(pool);
      else {
        const fresh = new PoolCard(pool);
        this.#cards.set(pool.name, fresh);
        this.#pools.append(fresh.element);
      }
    }
    this.#runs.update(store.reports);
  }
}
