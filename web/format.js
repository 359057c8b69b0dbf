/** Numbers as a person reads them; "–" for what does not exist (yet). */

const NOTHING = "–";
const LEAST_SHOWN = 0.001;

/** @param {number} number @returns {string} with two or three significant digits, never as 1e-5 */
function short(number) {
  if (number >= 99.5 || number === 0) return number.toFixed(0);
  if (number < LEAST_SHOWN) return `below ${LEAST_SHOWN}`;
  return String(Number(number.toPrecision(number >= 10 ? 3 : 2)));
}

/** @param {number|null|undefined} bytes @returns {string} "3.4 MB"; 1 kB is 1000 bytes */
export function formatBytes(bytes) {
  if (bytes == null) return NOTHING;
  const prefixes = ["", "k", "M", "G", "T"];
  let power = 0;
  while (bytes >= 999.5 && power < prefixes.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  return `${short(bytes)} ${prefixes[power]}B`;
}

/** @param {number|null|undefined} seconds @returns {string} "0.41 s", "32 µs" */
export function formatSeconds(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds >= 0.0095) return `${short(seconds)} s`;
  return seconds >= 0.00095 ? `${short(seconds * 1e3)} ms` : `${short(seconds * 1e6)} µs`;
}

/** @param {number|null|undefined} ratio @returns {string} "6.9x" */
export function formatRatio(ratio) {
  return ratio == null ? NOTHING : `${ratio.toFixed(ratio < 0.95 ? 2 : 1)}x`;
}

/** @param {number|null|undefined} share @returns {string} 0.004 as "0.4 %" */
export function formatShare(share) {
  if (share == null) return NOTHING;
  return `${share >= 0.0995 ? (100 * share).toFixed(0) : short(100 * share)} %`;
}

/** @param {number} seconds since 1970 @returns {string} the time of day */
export function formatTime(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
