/** What ComfyUI's front end loads: the tab "Parallel" of the sidebar and the settings of the pools. */

import { app } from "../../scripts/app.js";
import { Panel } from "./panel.js";
import { ask } from "./store.js";
import { loadWords, t } from "./words.js";

/** @type {Panel|undefined} */
let panel;

/** @param {number} minutes */
async function setIdleMinutes(minutes) {
  const body = JSON.stringify({ idle_minutes: minutes });
  try {
    await ask("/parallel/settings", { method: "POST", body });
  } catch (error) {
    app.extensionManager.toast.add({ severity: "error", summary: t("Parallel"), detail: error.message, life: 10000 });
  }
}

app.registerExtension({
  name: "CompactParallel.Panel",
  settings: [
    {
      id: "CompactParallel.IdleMinutes",
      category: ["Parallel", "Workers", "Idle time"],
      name: "Stop idle workers after (minutes)",
      tooltip:
        "Workers that have had nothing to do for this long end and give back their memory; the next run starts them " +
        "again.",
      type: "number",
      attrs: { min: 1, max: 10080, step: 1 },
      defaultValue: 15,
      onChange: setIdleMinutes,
    },
    {
      id: "CompactParallel.DefaultDevices",
      category: ["Parallel", "Workers", "Default devices"],
      name: "Devices of a Parallel Model without a pool",
      tooltip:
        "What a Parallel Worker Pool takes: auto (all CUDA devices of about one size, else two CPU workers), or a list such as " +
        "cuda:0,cuda:1. It holds for the next run.",
      type: "text",
      defaultValue: "auto",
    },
  ],
  async setup() {
    await loadWords();
    const href = new URL("./parallel.css", import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
    app.extensionManager.registerSidebarTab({
      id: "compact-parallel",
      icon: "pi pi-server",
      title: t("Parallel"),
      tooltip: t("Parallel: workers and runs"),
      type: "custom",
      render(element) {
        panel?.close();
        panel = new Panel(element);
      },
      destroy() {
        panel?.close();
        panel = undefined;
      },
    });
  },
});
