// All runs below the folders of the studio, as they go on.
import { get, listen, url } from "../api.js";
import { duration, empty, fill, h, number, useStyle } from "../dom.js";
import { href } from "../router.js";
import { progressBar, stateBadge } from "../run_parts.js";

export const title = "Runs";

const SHOWN_AT_ONCE = 60;

export async function render(root, parameters, signal) {
  const [{ runs }] = await Promise.all([get("runs/list", {}, signal), useStyle("runs")]);
  const rows = new Map(runs.map((run) => [run.id, run]));
  let shown = SHOWN_AT_ONCE;

  const search = h("input", { type: "search", placeholder: "Find a run", "aria-label": "Find a run", oninput: draw });
  const state = h("select", { "aria-label": "State", onchange: draw });
  for (const [value, text] of [["", "All states"], ["running", "Running"], ["finished", "Finished"], ["stopped", "Stopped"]]) {
    state.append(h("option", { value }, text));
  }
  const count = h("span.soft.small.number");
  const list = h("div.runs");
  const more = h("button", { onclick: () => { shown += 200; draw(); } });
  fill(root, h("div.head", {}, h("h1", {}, "Runs"), count, search, state), list, more);

  function draw() {
    const text = search.value.trim().toLowerCase();
    const fitting = [...rows.values()]
      .filter((run) => (!state.value || run.state === state.value) && (!text || run.id.toLowerCase().includes(text)))
      .sort((a, b) => (b.state === "running") - (a.state === "running") || b.changed - a.changed);
    count.textContent = fitting.length === rows.size ? `${rows.size}` : `${fitting.length} of ${rows.size}`;
    more.hidden = fitting.length <= shown;
    more.textContent = `Show ${Math.min(200, fitting.length - shown)} more`;
    if (!rows.size) {
      const where = "Runs in the folders of the studio appear here, also those that are started in a terminal.";
      fill(list, empty("No runs yet", where));
    } else fill(list, fitting.slice(0, shown).map(card));
  }
  draw();

  listen("runs/watch", {}, {
    rows: (changed) => {
      for (const run of changed) rows.set(run.id, run);
      draw();
    },
    gone: (names) => {
      for (const name of names) rows.delete(name);
      draw();
    },
  }, signal);
}

// The whole card is one link, so that there is one stop for the keyboard.
function card(run) {
  const picture = run.picture
    ? h("img", { src: url("pictures/small", { file: run.picture, side: 192 }), alt: "", loading: "lazy" })
    : h("div.no-picture", { "aria-hidden": "true" });
  const facts = [run.adapter && `${run.adapter}${run.rank ? ` ${run.rank}` : ""}`, run.base && shortName(run.base),
    run.images && `${run.images} images`].filter(Boolean);
  return h("a.card.run", { href: href("run", { run: run.id }) },
    picture,
    h("div.stack", {},
      h("div.row", {}, h("strong.clip.grow", {}, run.name), stateBadge(run.state)),
      h("div.soft.small.clip", { title: run.id }, run.id),
      progressBar(run.step, run.steps),
      h("div.small.number.row", {},
        h("span.grow", {}, `${number(run.step)}${run.steps ? ` / ${number(run.steps)}` : ""} steps`),
        run.loss === null ? null : h("span", {}, `loss ${number(run.loss)}`)),
      h("div.soft.small.row", {}, h("span.clip.grow", {}, facts.join(" · ")), h("span", {}, ago(run.changed)))));
}

function shortName(base) {
  return base.split(/[\\/]/).pop();
}

function ago(seconds) {
  const passed = Date.now() / 1000 - seconds;
  if (passed < 60) return "now";
  return passed < 172800 ? `${duration(passed)} ago` : new Date(seconds * 1000).toLocaleDateString();
}
