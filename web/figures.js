/** The figures of a run as the panel names them. */

import { formatBytes, formatRatio, formatSeconds, formatShare } from "./format.js";
import { plural, t } from "./words.js";

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
  return Object.entries(values).map(([key, value]) => [t(NAMES[key]), value, t(HINTS[key])]);
}

/** @param {number} ahead @param {number} rounds */
function aheadOf(ahead, rounds) {
  return t("{ahead} ahead in {rounds}", { ahead, rounds: plural(rounds, "{count} round", "{count} rounds") });
}

/** The figures of a run that goes on (or of one that did not end well). @param {import("./store.js").Run|null} run */
export function live(run) {
  const known = run && run.step > 0;
  const sent = known && run.bytes_sent > 0;
  return named({
    seconds: known ? formatSeconds(run.seconds_per_step) : null,
    sent: sent ? t("{bytes} by worker 0", { bytes: formatBytes(run.bytes_sent) }) : null,
    raw: sent ? formatBytes(run.bytes_uncompressed) : null,
    ratio: sent ? formatRatio(run.effective_ratio) : null,
    reuse: known && run.rounds != null ? aheadOf(run.ahead, run.rounds) : null,
    error: null,
  });
}

/** The figures of a run that is done, from its report. @param {Record<string, any>} report */
export function reported(report) {
  const sent = report.bytes_sent > 0;
  return named({
    seconds: report.steps ? formatSeconds(report.sampling_seconds / report.steps) : null,
    sent: sent ? t("{bytes} by all", { bytes: formatBytes(report.bytes_sent) }) : null,
    raw: sent ? formatBytes(report.bytes_uncompressed) : null,
    ratio: sent ? formatRatio(report.effective_ratio) : null,
    reuse: report.step_reuse.mode === "off" ? null : aheadOf(report.calls - report.rounds, report.rounds),
    error: report.max_relative_error == null ? null : formatShare(report.max_relative_error),
  });
}
