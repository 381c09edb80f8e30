// What the list of runs and the page of a run both show.
import { h } from "./dom.js";

const STATES = {
  running: ["main", "running"],
  starting: ["main", "starting"],
  finished: ["good", "finished"],
  stopped: ["warn", "stopped"],
};

/** The state of a run as a badge. */
export function stateBadge(state) {
  const [style, text] = STATES[state] ?? ["", state];
  return h("span.badge", { class: style }, text);
}

/** A bar of the steps made. */
export function progressBar(step, steps) {
  const share = steps ? Math.min(100, (100 * step) / steps) : 0;
  const label = steps ? `${step} of ${steps} steps` : `${step} steps`;
  const bar = h("div", { style: { width: `${share}%` } });
  const values = { "aria-valuenow": step, "aria-valuemin": 0, "aria-valuemax": steps ?? step };
  return h("div.progress", { role: "progressbar", "aria-label": label, ...values }, bar);
}
