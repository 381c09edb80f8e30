// LoRA files: what is in them, and new files from them.
import { get, post } from "../api.js";
import { attempt, empty, fill, h } from "../dom.js";

export const title = "Files";

const COMMANDS = {
  resize: { label: "Resize", options: { rank: "New rank", base: "Base, if it is no published one" } },
  convert: { label: "Convert", options: { to: "Format, such as kohya, diffusers", base: "Base, if needed" } },
  strip: { label: "Take private metadata out", options: { to: "public, minimal or none" } },
};

export async function render(root, parameters, signal) {
  const { files } = await get("files/choices", {}, signal);
  if (!files.length) return void fill(root, h("h1", {}, "Files"), empty("No LoRA files", "Exports of runs appear here."));
  const list = h("select", { multiple: true, size: 10, "aria-label": "LoRA files", style: { width: "100%" }, onchange: inspect },
    files.map((name) => h("option", { value: name, selected: name === parameters.file }, name)));
  const name = h("input", { value: "new", "aria-label": "Name of the new file" });
  const strengths = h("input", { value: "1", "aria-label": "Strengths" });
  const report = h("pre", { tabindex: "0" }, "Choose a file.");
  const inputs = {};
  const field = (label, input) => h("label.field", {}, label, input);
  const rows = Object.entries(COMMANDS).map(([command, { label, options }]) => {
    inputs[command] = Object.fromEntries(Object.keys(options).map((key) => [key, h("input")]));
    return h("div.row", { style: { "align-items": "flex-end" } }, Object.entries(options).map(([key, text]) => field(text, inputs[command][key])),
      h("button", { onclick: () => change(command) }, label));
  });
  fill(root, h("h1", {}, "Files"), h("div.columns", {},
    h("div.card.stack", {}, list, field("Name of the new file, or what is added to that of the old one", name), rows,
      h("div.row", { style: { "align-items": "flex-end" } }, field("Strengths, one for each chosen file", strengths), h("button", { onclick: combine }, "Add up the chosen files"))),
    h("div.card", {}, report)));

  const chosen = () => [...list.selectedOptions].map((option) => option.value);
  const show = (value) => { report.textContent = value ? JSON.stringify(value, null, 1) : "Nothing was written."; };
  async function inspect() {
    const [file] = chosen();
    if (!file) return;
    report.textContent = "Reading…";
    const result = await attempt(() => get("files/inspect", { file }, signal));
    if (chosen()[0] === file) show(result);
  }
  async function made(action) {
    report.textContent = "Writing…";
    const result = await attempt(action, "The file is written.");
    show(result);
    if (result && !files.includes(result.file)) list.prepend(h("option", { value: result.file }, result.file));
  }
  function change(command) {
    const options = Object.fromEntries(Object.entries(inputs[command]).map(([key, input]) => [key, input.value.trim()]));
    return made(() => post("files/change", { file: chosen()[0] ?? "", command, options, name: name.value }));
  }
  function combine() {
    const factors = strengths.value.split(/[\s,]+/u).map(Number);
    const uses = chosen().map((file, i) => ({ file, strength: factors[i] ?? factors[0] }));
    return made(() => post("files/combine", { files: uses, name: name.value }));
  }
  if (parameters.file) await inspect();
}
