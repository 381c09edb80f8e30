// LoRA files: what is in them, and new files from them.
import { get, post } from "../api.js";
import { attempt, empty, fill, h } from "../dom.js";
import { shown } from "../files/report.js";

export const title = "Files";

// The name comes before the folder: a narrow list cuts off the end.
function choice(file, selected = false) {
  const parts = file.split("/");
  return h("option", { value: file, selected, title: file }, `${parts.pop()}${parts.length ? ` in ${parts.join("/")}` : ""}`);
}

export async function render(root, parameters, signal) {
  const { files, bases } = await get("files/choices", {}, signal);
  const field = (label, input) => h("label.field", {}, label, input);
  const text = (value = "", more = {}) => h("input", { value, ...more });
  const list = h("select", { multiple: true, size: 10, "aria-label": "LoRA files", style: { width: "100%" }, onchange: choose },
    files.map((name) => choice(name, name === parameters.file)));
  const base = text("", { list: "files-bases", placeholder: "where one is needed" });
  const name = text("new");
  const uses = h("div.stack");
  const report = h("div.card.scroll", { role: "status", tabindex: "0", "aria-label": "Report" }, files.length ? "Choose a file." : "No LoRA files: exports of runs appear here.");
  let strengths = new Map();

  const rank = text();
  const energy = text();
  const format = h("select", {}, ["portable", "kohya", "peft", "lycoris", "diff", "bundle", "mixofshow"].map((each) => h("option", { value: each }, each)));
  const level = h("select", {}, ["public", "minimal", "none"].map((each) => h("option", { value: each }, each)));
  const method = h("select", {}, ["gradient", "weights", "sum"].map((each) => h("option", { value: each }, each)));
  const tuned = text("", { list: "files-bases" });
  const button = (label, action) => h("button", { onclick: action }, label);
  const line = (...parts) => h("div.row", { style: { "align-items": "flex-end" } }, parts);
  const section = (heading, ...parts) => h("details", { open: heading === "One file" }, h("summary", {}, heading), h("div.stack", {}, parts));

  fill(root, h("h1", {}, "Files"), h("div.columns", { style: { "align-items": "start" } }, h("div.card.stack", {}, list, uses,
    field("Base model", base), field("Name of the new file, or what is added to that of the old one", name),
    line(field("Rank", rank), field("Energy to keep, 0 to 1", energy)),
    section("One file", line(button("Resize", () => change("resize", { rank: rank.value, energy: energy.value })), field("Format", format), button("Convert", () => change("convert", { to: format.value, rank: rank.value })),
      field("Metadata that stays", level), button("Take metadata out", () => change("strip", { to: level.value })))),
    section("Several files, or files and a base", line(button("Add up", () => send("combine")), field("Method", method), button("Fuse", () => send("fuse", { options: { base: base.value.trim(), method: method.value, rank: rank.value.trim() } })),
      button("Merge into the base", () => send("merge", { base: base.value.trim() })))),
    section("A LoRA from a fine-tuned model", line(field("Fine-tuned model", tuned), button("Extract", () => made(() => post("files/extract", { tuned: tuned.value.trim(), base: base.value.trim(), name: name.value, options: { rank: rank.value.trim(), energy: energy.value.trim() } }))))),
    h("datalist", { id: "files-bases" }, bases.map((value) => h("option", { value })))), report));
  if (!files.length) list.before(empty("No LoRA files", "Exports of runs appear here. A LoRA can be extracted from a model below."));

  const chosen = () => [...list.selectedOptions].map((option) => option.value);
  const body = () => chosen().map((file) => {
    const inputs = strengths.get(file);
    return { file, strength: Number(inputs?.strength.value ?? 1), name: inputs?.name.value.trim() ?? "" };
  });

  // Each chosen file has a strength, and a name in prompts if files are fused.
  function choose() {
    const before = strengths;
    strengths = new Map(chosen().map((file) => {
      const stem = file.split("/").pop().replace(/\.safetensors$/u, "");
      return [file, before.get(file) ?? { strength: h("input", { type: "number", step: 0.05, value: 1 }), name: text(stem) }];
    }));
    fill(uses, strengths.size < 2 ? null : [...strengths].map(([file, inputs]) => line(h("span.clip.grow", { title: file }, file.split("/").pop()), field("Strength", inputs.strength), field("Name in prompts", inputs.name))));
    return inspect();
  }

  async function inspect() {
    const [file] = chosen();
    if (!file) return;
    fill(report, "Reading; the first file takes some seconds…");
    try {
      const result = await get("files/inspect", { file }, signal);
      // the config of the run, where there is one, says the same in full
      if (chosen()[0] === file) fill(report, shown(result.config ? { ...result, training: null } : result));
    } catch (error) {
      if (error.name !== "AbortError") fill(report, h("div.problem", { role: "alert" }, error.message));
    }
  }

  async function made(action) {
    fill(report, "Writing…");
    try {
      const result = await action();
      fill(report, h("p", {}, "Written: ", h("strong.wrap", {}, result.file)), shown(result.report));
      if (!files.includes(result.file) && result.file.endsWith(".safetensors")) list.prepend(choice(result.file));
    } catch (error) {
      if (error.name !== "AbortError") fill(report, h("div.problem", { role: "alert" }, error.message));
    }
  }

  const change = (command, options) => made(() => post("files/change", { file: chosen()[0] ?? "", command, name: name.value,
    options: { base: base.value.trim(), ...Object.fromEntries(Object.entries(options).map(([key, value]) => [key, value.trim()])) } }));
  const send = (route, more = {}) => made(() => post(`files/${route}`, { files: body(), name: name.value, ...more }));

  if (parameters.file) await attempt(choose);
}
