// The chosen LoRA files of the playground, each with a slider for its strength.
import { append, fill, h } from "../dom.js";

/** `element`, `values()` as [{file, strength}], `set(loras)`. */
export function loraSliders(files) {
  const rows = h("div.stack");
  const choice = h("select", { "aria-label": "Add a LoRA", onchange: () => { add(choice.value, 1); choice.value = ""; } },
    h("option", { value: "" }, files.length ? "Add a LoRA…" : "No LoRA files below the folders of the studio"),
    files.map((name) => h("option", { value: name }, name)));
  const chosen = new Map();

  function add(file, strength) {
    if (!file || chosen.has(file)) return;
    const name = file.split("/").pop().replace(/\.safetensors$/u, "");
    const slider = h("input.grow", { type: "range", min: -1, max: 2, step: 0.05, value: strength, "aria-label": `Strength of ${name}` });
    const exact = h("input", { type: "number", step: 0.05, value: strength, "aria-label": `Strength of ${name} as a number` });
    slider.addEventListener("input", () => { exact.value = slider.value; });
    exact.addEventListener("input", () => { slider.value = exact.value; });
    const remove = h("button.plain", { type: "button", "aria-label": `Remove ${name}`, onclick: () => { row.remove(); chosen.delete(file); } }, "×");
    const row = h("div.lora", {}, h("span.clip", { title: file }, name), slider, exact, remove);
    chosen.set(file, exact);
    append(rows, row);
  }

  function set(loras) {
    chosen.clear();
    fill(rows);
    for (const { file, strength } of loras) add(file, strength);
  }

  return {
    element: h("div.stack", {}, rows, choice),
    values: () => [...chosen].map(([file, input]) => ({ file, strength: Number(input.value) })),
    set,
  };
}
