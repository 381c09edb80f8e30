// Sweeps: the runs of one as a table, with curves and pictures, which is the best and why.
import { get, listen, url } from "../api.js";
import { lineChart } from "../chart.js";
import { attempt, empty, fill, h, number, openDialog } from "../dom.js";
import { href } from "../router.js";
import { stateBadge } from "../run_parts.js";

export const title = "Sweeps";

const COLUMNS = { loss: "loss", validation_loss: "held-out", best_loss: "best", best_step: "at step", steps: "steps" };

export async function render(root, { sweep }, signal) {
  if (!sweep) return overview(root, signal);
  const [first, curves] = await Promise.all([get("sweeps/show", { sweep }, signal), get("sweeps/curves", { sweep }, signal)]);
  const badge = h("span");
  const reason = h("p.card.wrap", { role: "status" });
  const table = h("div.card.scroll", { tabindex: "0", role: "region", "aria-label": "Runs of the sweep" });
  const charts = h("div.columns");
  const drawn = new Map();
  const pictures = h("div");
  fill(root, h("div.head", {}, h("div", {}, h("div.row", {}, h("h1", {}, sweep.split("/").pop()), badge), h("div.soft.small.wrap", {}, first.folder)),
    h("a.button", { href: href("sweeps") }, "All sweeps")), reason, table, charts, pictures);

  function show(now) {
    fill(badge, stateBadge(now.running ? "running" : now.rows.every((row) => ["finished", "pruned"].includes(row.state)) ? "finished" : "stopped"));
    reason.textContent = now.why;
    fill(table, h("table", {}, h("thead", {}, h("tr", {}, ["Run", ...(now.keys.length ? now.keys : ["settings"]), "state", ...Object.values(COLUMNS), ""].map((text) => h("th", {}, text)))),
      h("tbody", {}, now.rows.map((row) => line(now, row)))));
    if (now.comparison) {
      const source = url("pictures/file", { file: now.comparison, v: now.changed });
      fill(pictures, h("div.card", {}, h("h2", {}, "The last previews of all runs"), h("button.picture", { "aria-label": "Open the comparison",
        onclick: () => openDialog("The last previews of all runs", h("img", { src: source, alt: "A row of pictures for each run" })) },
      h("img", { src: source, alt: "A row of pictures for each run", loading: "lazy" }))));
    }
  }

  function line(now, row) {
    const name = row.run === now.best ? h("strong", {}, `${row.run} (best)`) : row.run;
    const preview = row.picture ? h("img", { src: url("pictures/small", { file: row.picture, side: 96 }), alt: "", width: 64, loading: "lazy" }) : null;
    const values = now.keys.length ? now.keys.map((key) => h("td", {}, row.values[key] ?? "")) : h("td");
    return h("tr", {}, h("td.wrap", { style: { "min-width": "150px" } }, row.id ? h("a", { href: href("run", { run: row.id }) }, name) : name, row.message ? h("div.small.soft", {}, row.message) : null),
      values, h("td", {}, stateBadge(row.state)), Object.keys(COLUMNS).map((key) => h("td.number", {}, number(row[key]))), h("td", {}, preview));
  }

  function showCurves(list) {
    for (const chart of list) {
      if (!drawn.has(chart.title)) {
        drawn.set(chart.title, lineChart());
        charts.append(drawn.get(chart.title).element);
      }
      drawn.get(chart.title).update(chart);
    }
  }

  show(first);
  showCurves(curves.charts);
  listen("sweeps/watch", { sweep }, { sweep: async (now) => {
    show(now);
    const fresh = await attempt(() => get("sweeps/curves", { sweep }, signal));
    if (fresh) showCurves(fresh.charts);
  } }, signal);
}

async function overview(root, signal) {
  const { sweeps } = await get("sweeps/list", {}, signal);
  const how = "Make a config in New run, and press Sweep… there; those of lorasmith sweep appear here too.";
  fill(root, h("div.head", {}, h("h1", {}, "Sweeps"), h("a.button", { href: href("new_run") }, "New run")),
    sweeps.length ? h("div.columns", {}, sweeps.map((each) => h("a.card.stack", { href: href("sweeps", { sweep: each.sweep }), style: { color: "inherit", "text-decoration": "none" } },
      h("div.row", {}, h("strong.grow.wrap", {}, each.sweep), stateBadge(each.running ? "running" : each.finished === each.runs ? "finished" : "stopped")),
      h("span.soft.small", {}, `${each.finished} of ${each.runs} runs${each.best ? ` · best: ${each.best}` : ""}`)))) : empty("No sweeps", how));
}
