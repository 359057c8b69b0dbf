/** Says which choices and inputs of a workflow that is loaded do not exist (any more), before anyone queues it. */

import { app } from "../../scripts/app.js";
import { t } from "./words.js";

const OURS = "CompactParallel";
const COMBOS = ["COMBO", "COMFY_DYNAMICCOMBO_V3"];
const SHOWN_MS = 30000;
const FOLDER = "folder"; // its choices are those of this machine
const ABSENT = "{name} is {value}, which is not in models/diffusers (yet).";
const LOST = "There is no input {name} any more; what it was set to ({value}) is lost, check the node.";

/**
 * The choices of every field that a node can have, null for a field that has none.
 * @param {Record<string, Record<string, [string|string[], Record<string, any>]>>} input as /object_info tells it
 * @param {string} prefix
 * @returns {Map<string, string[]|null>}
 */
function fieldsOf(input, prefix = "") {
  const fields = new Map();
  for (const [name, [type, options]] of Object.values(input).flatMap(Object.entries)) {
    const choices = Array.isArray(type) ? type : COMBOS.includes(type) ? options.options : null;
    fields.set(prefix + name, choices?.map((choice) => choice.key ?? choice) ?? null);
    for (const choice of choices ?? []) {
      if (choice.inputs) fieldsOf(choice.inputs, `${prefix}${name}.`).forEach((inner, key) => fields.set(key, inner));
    }
  }
  return fields;
}

/**
 * What is wrong with a saved node of ours, one sentence each.
 * @param {{type: string, inputs?: {name: string, widget?: object}[], widgets_values?: any[]}} node
 * @returns {string[]}
 */
function complaints(node) {
  const fields = fieldsOf(globalThis.LiteGraph.registered_node_types[node.type].nodeData.input);
  const names = (node.inputs ?? []).filter((input) => input.widget && !input.name.startsWith("$$")).map((input) => input.name);
  const found = [];
  names.forEach((name, place) => {
    const value = node.widgets_values?.[place];
    const choices = fields.get(name);
    if (choices === undefined) {
      found.push(t(LOST, { name, value }));
    } else if (name === FOLDER && !choices.includes(value)) {
      const elsewhere = node.widgets_values?.[names.indexOf("path")];
      if (value && !elsewhere) found.push(t(ABSENT, { name, value }));
    } else if (choices && value !== undefined && !choices.includes(value)) {
      const values = { name, value, choices: choices.join(", ") };
      found.push(t("{name} is {value}, which does not exist; choose one of {choices}.", values));
    }
  });
  return found;
}

app.registerExtension({
  name: "CompactParallel.SavedWorkflow",
  /** @param {{nodes: any[], definitions?: {subgraphs?: {nodes: any[]}[]}}} graph as it was saved */
  beforeConfigureGraph(graph) {
    const everywhere = [graph, ...(graph.definitions?.subgraphs ?? [])].flatMap((part) => part.nodes ?? []);
    for (const node of everywhere) {
      const known = globalThis.LiteGraph.registered_node_types[node.type];
      if (!node.type?.startsWith(OURS) || !known) continue;
      for (const detail of complaints(node)) {
        const summary = node.title ?? known.title;
        app.extensionManager.toast.add({ severity: "warn", summary, detail, life: SHOWN_MS });
      }
    }
  },
});
