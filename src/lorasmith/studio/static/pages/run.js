// One run: how it goes, what it draws, what it has written, and the requests that it takes.
import { get, listen, post, url } from "../api.js";
import { lineChart } from "../chart.js";
import { attempt, bytes, duration, fill, h, number, openDialog, toast, useStyle } from "../dom.js";
import { href } from "../router.js";
import { progressBar, stateBadge } from "../run_parts.js";

export const title = "Run";

export async function render(root, { run }, signal) {
  const [details, curves] = await Promise.all([
    get("run/show", { run }, signal),
    get("run/curves", { run }, signal),
    useStyle("run"),
  ]);
  const picture = (file) => url("run/picture", { run, file });
  const parts = {
    head: headOf(run, details),
    status: statusOf(),
    warnings: h("div", { hidden: true }),
    charts: chartsOf(),
    previews: previewsOf(run, picture),
    attention: slides("Attention of the words", picture),
    exports: exportsOf(),
    log: logOf(),
  };
  fill(root, parts.head.element, parts.status.element, parts.warnings, parts.charts.element, parts.previews.element,
    parts.attention.element, h("div.columns", {}, parts.exports.element, dataCard(details)), parts.log.element,
    settingsOf(details));

  const showStatus = (status) => {
    parts.head.update(status);
    parts.status.update(status);
  };
  const show = (live) => {
    showStatus(live.status);
    parts.warnings.hidden = !live.warnings.length;
    parts.warnings.className = "notice";
    fill(parts.warnings, h("ul", {}, live.warnings.map((text) => h("li", {}, text))));
    parts.previews.update(live.previews);
    parts.attention.update(live.attention.filter((item) => item.file).map((item) => ({ ...item, files: [item.file] })));
    parts.exports.update(live.exports, live.best);
    parts.log.update(live);
  };
  show(details);
  parts.charts.update(curves.charts);

  // Curves are requested less often than the numbers change; what changes meanwhile is requested afterwards.
  let asking = false;
  let changed = false;
  const refreshCurves = async () => {
    changed = true;
    if (asking) return;
    asking = true;
    while (changed && !signal.aborted) {
      changed = false;
      await attempt(async () => parts.charts.update((await get("run/curves", { run }, signal)).charts));
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
    asking = false;
  };
  listen("run/watch", { run }, { status: showStatus, live: (live) => { show(live); refreshCurves(); } }, signal);
}

function headOf(run, details) {
  const badge = h("span");
  const ask = (request, done) => () => attempt(() => post("run/control", { run, request }), done);
  const buttons = {
    preview: h("button", { onclick: ask("preview", "The run draws after this step.") }, "Preview now"),
    export: h("button", { onclick: ask("export", "The run writes a file after this step.") }, "Export now"),
    stop: h("button.danger", { onclick: ask("stop", "The run stops after this step, with a checkpoint.") }, "Stop"),
    resume: h("button.primary", {
      onclick: () => attempt(() => post("run/resume", { run }), "The run is being started."),
    }, "Resume"),
  };
  const report = h("a.button", { href: url("run/report", { run }), target: "_blank", rel: "noopener" }, "Report");
  const element = h("div.head", {},
    h("div", {}, h("div.row", {}, h("h1", {}, details.name), badge), h("div.soft.small.wrap", {}, details.folder)),
    h("div.row", {}, Object.values(buttons), report));
  const hasPreview = /^\[preview\]/m.test(details.config);
  const update = ({ state }) => {
    fill(badge, stateBadge(state));
    const running = state === "running";
    for (const name of ["stop", "export", "preview"]) buttons[name].hidden = !running;
    buttons.preview.disabled = !hasPreview;
    buttons.preview.title = hasPreview ? "" : "The config of the run has no [preview], so it has no prompts";
    buttons.resume.hidden = state !== "stopped";
  };
  return { element, update };
}

function statusOf() {
  const tiles = h("div.tiles");
  const bar = h("div");
  const update = (status) => {
    const running = status.state === "running";
    const speed = status.seconds_per_step;
    const rate = speed >= 1 ? [`${speed.toFixed(2)} s`, "each step"] : [(1 / speed).toFixed(1), "steps a second"];
    const memory = status.memory;
    fill(tiles, [
      [`${number(status.step)}${status.steps ? ` / ${number(status.steps)}` : ""}`, "steps"],
      status.loss === null ? null : [number(status.loss), "loss, mean of the last steps"],
      running && status.remaining !== null ? [duration(status.remaining), "left, without previews"] : null,
      speed ? rate : null,
      status.seconds === null ? null : [duration(status.seconds), "in steps so far"],
      memory?.gpu ? [bytes(memory.gpu), "GPU memory"] : null,
      memory?.process ? [bytes(memory.process), "memory of the process"] : null,
      status.device ? [status.device, "device"] : null,
      status.host ? [status.host, "machine"] : null,
    ].filter(Boolean).map(([value, meaning]) => h("div.tile", {}, h("b.clip", { title: value }, value), h("span", {}, meaning))));
    fill(bar, progressBar(status.step, status.steps));
  };
  return { element: h("div.stack", {}, bar, tiles), update };
}

function chartsOf() {
  const element = h("div.charts");
  const charts = new Map();
  const update = (list) => {
    for (const chart of list) {
      if (!charts.has(chart.title)) {
        charts.set(chart.title, lineChart());
        element.append(charts.get(chart.title).element);
      }
      charts.get(chart.title).update(chart);
    }
  };
  return { element, update };
}

// Previews as a time line: the base model beside the step that the slider is at.
function previewsOf(run, picture) {
  const slider = h("input.grow", { type: "range", min: 0, value: 0, "aria-label": "Preview" });
  const label = h("b.number");
  const pictures = h("div.previews");
  const element = h("section.card", { hidden: true },
    h("div.head", {}, h("h2", {}, "Previews"), label), slider, pictures);
  let previews = [];
  const show = () => {
    const preview = previews[Number(slider.value)];
    if (!preview) return;
    label.textContent = `step ${number(preview.step)}`;
    slider.setAttribute("aria-valuetext", label.textContent);
    const rows = Math.max(1, Math.ceil(preview.images.length / Math.max(1, preview.prompts.length)));
    // With several strengths or seeds a prompt has several pictures; the grid shows them with their labels.
    if (rows > 1 || !preview.images.length) {
      fill(pictures, preview.grids.filter(Boolean).map((file) => zoomable(picture(file), `step ${preview.step}`)));
      return;
    }
    fill(pictures, preview.images.map((file, i) => {
      const number = String(i).padStart(2, "0");
      const base = h("img", { src: picture(`previews/base/${number}.png`), alt: "base model", onerror: (e) => e.target.remove() });
      return h("figure", {}, h("div.pair", {}, base, zoomable(picture(file), preview.prompts[i])),
        h("figcaption.small.soft", {}, preview.prompts[i]));
    }));
  };
  slider.addEventListener("input", show);
  const update = (list) => {
    const atEnd = Number(slider.value) >= previews.length - 1;
    const same = list.length === previews.length;
    previews = list;
    element.hidden = !list.length;
    slider.max = Math.max(0, list.length - 1);
    slider.hidden = list.length < 2;
    if (atEnd) slider.value = list.length - 1;
    if (!same) show();
  };
  return { element, update };
}

// Pictures of steps with a slider.
function slides(name, picture) {
  const slider = h("input.grow", { type: "range", min: 0, value: 0, "aria-label": name });
  const label = h("b.number");
  const place = h("div");
  const element = h("section.card", { hidden: true }, h("div.head", {}, h("h2", {}, name), label), slider, place);
  let items = [];
  const show = () => {
    const item = items[Number(slider.value)];
    if (!item) return;
    label.textContent = `step ${number(item.step)}`;
    fill(place, item.files.map((file) => zoomable(picture(file), label.textContent)));
  };
  slider.addEventListener("input", show);
  const update = (list) => {
    if (list.length === items.length) return;
    items = list;
    element.hidden = !list.length;
    slider.max = Math.max(0, list.length - 1);
    slider.hidden = list.length < 2;
    slider.value = list.length - 1;
    show();
  };
  return { element, update };
}

function zoomable(source, text) {
  const open = () => openDialog(text ?? "", h("img.whole", { src: source, alt: text }));
  return h("button.picture", { onclick: open, "aria-label": `Enlarge: ${text}` }, h("img", { src: source, alt: text, loading: "lazy" }));
}

function exportsOf() {
  const body = h("tbody");
  const none = h("p.soft", {}, "No file yet.");
  const table = h("table", {}, h("thead", {}, h("tr", {}, ["File", "Step", "Size"].map((text) => h("th", {}, text)))), body);
  const reason = h("p.soft.small.reason");
  const element = h("section.card", {}, h("h2", {}, "Files"), none, h("div.scroll", {}, table), reason);
  const update = (files, best) => {
    reason.textContent = best?.reason ? `${best.remark ? "Held-out loss" : "Best weights"}: ${best.reason}.` : "";
    none.hidden = files.length > 0;
    table.hidden = !files.length;
    fill(body, files.map((file) => h("tr", {},
      h("td.wrap", {}, file.file, " ", file.best ? h("span.badge.good", {}, "best") : null,
        !file.best && file.lowest_validation ? h("span.badge", {}, "lowest validation loss") : null),
      h("td.number", {}, number(file.step)), h("td.number", {}, bytes(file.size)))));
  };
  return { element, update };
}

function dataCard(details) {
  const { data, summary } = details;
  const facts = summary.data ?? {};
  const rows = [["images", facts.images], ["repeats in an epoch", facts.repeats], ["held out", facts.validation],
    ["batch size", facts.batch_size], ["remarks", data.remarks]].filter(([, value]) => value);
  const folders = data.folders.map(({ path, name }) =>
    h("div.wrap", {}, name ? h("a", { href: href("data", { folder: name, config: data.config, ...data.settings }) }, path) : h("span.soft", {}, path)));
  return h("section.card", {}, h("h2", {}, "Data"),
    h("table", {}, rows.map(([name, value]) => h("tr", {}, h("th", {}, name), h("td.number", {}, number(value))))), folders);
}

function logOf() {
  const lines = h("pre.log", { tabindex: "0" });
  const console_ = h("pre.log", { tabindex: "0" });
  const consoleBox = h("details", {}, h("summary", {}, "Output of the process that the studio started"), console_);
  const element = h("section.card.stack", {}, h("h2", {}, "Log"), lines, consoleBox);
  let failed = false;
  const update = ({ log, console: text, status }) => {
    lines.textContent = log.map(sentence).join("\n") || "Nothing yet.";
    lines.scrollTop = lines.scrollHeight;
    consoleBox.hidden = !text;
    console_.textContent = text;
    if (status.failed && !failed) {
      consoleBox.open = true;
      toast(`The run could not go on: ${text.trim().split("\n").pop()}`, "error");
    }
    failed = status.failed;
  };
  return { element, update };
}

/** A value of an event as text; tables in brackets. */
function shown(value) {
  if (typeof value === "number") return number(value);
  if (Array.isArray(value)) return value.map(shown).join(", ");
  if (value === null || typeof value !== "object") return String(value);
  return `(${Object.entries(value).map(([name, inner]) => `${name} ${shown(inner)}`).join(", ")})`;
}

// An event as a line: step, kind, and its values without what has a place of its own on the page.
function sentence({ event, step, ...fields }) {
  const skipped = ["images", "prompts", "grids", "by_t", "id"];
  const texts = Object.entries(fields)
    .filter(([name, value]) => !skipped.includes(name) && value !== "" && value !== null)
    .map(([name, value]) => `${name} ${shown(value)}`);
  return `${String(step ?? "").padStart(7)}  ${event}${texts.length ? `: ${texts.join(", ")}` : ""}`;
}

function settingsOf(details) {
  if (!details.config) return null;
  return h("details.card", {}, h("summary", {}, "Everything that the run used (config.toml)"), h("pre", {}, details.config));
}
