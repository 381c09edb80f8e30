// Pictures from a prompt, LoRA files with sliders and regions, with a model that stays loaded.
import { get, listen, post, url } from "../api.js";
import { attempt, bytes, empty, fill, h, openDialog, useStyle } from "../dom.js";
import { loraSliders } from "../playground/loras.js";
import { regionEditor } from "../playground/regions.js";

export const title = "Playground";

const NUMBERS = {
  seed: { label: "Seed", value: 0, min: 0 }, steps: { label: "Steps", value: 20, min: 1, max: 1000 },
  cfg: { label: "Guidance", value: 7, step: 0.5 }, width: { label: "Width", value: "", min: 8, step: 8, placeholder: "base" },
  height: { label: "Height", value: "", min: 8, step: 8, placeholder: "base" }, count: { label: "Pictures", value: 1, min: 1, max: 64 },
};

export async function render(root, parameters, signal) {
  const [{ files, bases, samplers }, past] = await Promise.all(
    [get("playground/choices", {}, signal), get("playground/history", {}, signal), useStyle("playground")]);
  // The settings of pictures that were drawn on this page, by their file.
  const settings = new Map();
  let pictures = past.pictures;

  const field = (label, input) => h("label.field", {}, label, input);
  const base = h("input", { list: "play-bases", required: true, value: bases[0] });
  const prompt = h("textarea", { rows: 3, required: true, placeholder: "a photo of …" });
  const negative = h("textarea", { rows: 1 });
  const sampler = h("select", {}, samplers.map((name) => h("option", { value: name }, name)));
  const inputs = Object.fromEntries(Object.entries(NUMBERS).map(([key, { label, ...more }]) => [key, h("input", { type: "number", ...more })]));
  const loras = loraSliders(files);
  const regions = regionEditor(() => [Number(inputs.width.value) || 1, Number(inputs.height.value) || Number(inputs.width.value) || 1]);
  for (const key of ["width", "height"]) inputs[key].addEventListener("input", regions.resize);
  if (parameters.file) loras.set([{ file: parameters.file, strength: 1 }]);

  const button = h("button.primary", {}, "Draw");
  const stop = h("button", { type: "button", disabled: true, onclick: () => attempt(() => post("playground/stop")) }, "Stop");
  const unload = h("button", { type: "button", disabled: true, onclick: () => attempt(() => post("playground/stop", { unload: true }), "The model is unloaded.") }, "Unload the model");
  const memory = h("p.soft.small", { role: "status" });
  const bar = h("div");
  const progress = h("div.progress", { role: "progressbar", "aria-label": "Drawing", hidden: true }, bar);
  const note = h("span.soft.small", { role: "status" });
  const problem = h("div.problem", { role: "alert", hidden: true });
  const drawn = h("div.drawn");
  const history = h("div.history");
  const form = h("form.card.stack", { onsubmit: draw },
    field("Prompt", prompt), field("Negative prompt", negative), h("div.row", {}, button, stop, note), progress, field("Base model", base),
    h("div.stack", {}, h("h2", {}, "LoRAs"), loras.element),
    h("div.numbers", {}, Object.entries(inputs).map(([key, input]) => field(NUMBERS[key].label, input)), field("Sampler", sampler)),
    h("details", {}, h("summary", {}, "Regions: parts of the picture with their own prompts"), regions.element),
    h("datalist", { id: "play-bases" }, bases.map((value) => h("option", { value }))),
    h("div.row", {}, unload, memory));
  const details = form.querySelector("details");
  details.addEventListener("toggle", regions.resize);
  fill(root, h("div.head", {}, h("h1", {}, "Playground")),
    h("div.play", {}, form, h("div.stack", {}, problem, drawn, h("h2", {}, "Drawn before"), h("p.soft.small.wrap", {}, `All pictures are in ${past.folder}`), history)));

  const body = () => ({
    base: base.value.trim(), prompt: prompt.value, negative: negative.value, sampler: sampler.value, loras: loras.values(),
    regions: regions.values(), apart: regions.apart(),
    ...Object.fromEntries(Object.entries(inputs).filter(([, input]) => input.value !== "").map(([key, input]) => [key, Number(input.value)])),
  });

  async function draw(event) {
    event.preventDefault();
    const request = body();
    busy(true);
    problem.hidden = true;
    fill(drawn);
    try {
      const result = await post("playground/draw", request, signal);
      for (const [i, file] of result.files.entries()) settings.set(file, { ...request, seed: (request.seed ?? 0) + i, count: 1 });
      fill(drawn, result.files.map(picture));
      note.textContent = [`${result.seconds} s`, ...result.notes].join(" · ");
    } catch (error) {
      if (error.name === "AbortError") return;
      problem.hidden = false;
      problem.textContent = error.message;
      note.textContent = "";
    }
    busy(false);
    const now = await attempt(() => get("playground/history", {}, signal));
    if (now) pictures = now.pictures;
    showHistory();
  }

  function busy(is) {
    button.disabled = is;
    stop.disabled = !is;
    progress.hidden = !is;
    if (is) note.textContent = "Starting…";
  }

  // Also while another page of the studio draws: there is one model for all of them.
  function show(state) {
    unload.disabled = !state.loaded;
    const { process, gpu } = state.memory ?? {};
    memory.textContent = state.loaded ? `A helper process is running: ${bytes(process)} of memory${gpu ? `, ${bytes(gpu)} on the GPU` : ""}. It ends after ten minutes without use.` : "No model is loaded.";
    if (!state.progress) return;
    stop.disabled = false;
    const { done, total, files: written } = state.progress;
    const share = total ? Math.min(100, (100 * done) / total) : 0;
    bar.style.width = `${share}%`;
    progress.setAttribute("aria-valuenow", Math.round(share));
    note.textContent = total ? `${state.progress.note}: ${done} of ${total}` : `${state.progress.note}…`;
    if (button.disabled && drawn.children.length !== written.length) fill(drawn, written.map(picture));
  }

  function picture(file) {
    return h("button.picture", { "aria-label": `Open ${file.split("/").pop()}`, onclick: () => zoom(file) }, h("img", { src: url("pictures/file", { file }), alt: "" }));
  }

  function showHistory() {
    if (!pictures.length) return void fill(history, empty("No pictures yet", "Write a prompt and press Draw."));
    fill(history, pictures.map(({ file }) => h("button.picture", { "aria-label": `Open ${file.split("/").pop()}`, onclick: () => zoom(file) },
      h("img", { src: url("pictures/small", { file, side: 192 }), alt: "", loading: "lazy" }))));
  }

  function zoom(file) {
    const text = pictures.find((each) => each.file === file)?.text ?? "";
    const known = settings.get(file);
    const use = known && h("button", { onclick: () => { restore(known); dialog.close(); } }, "Use these settings");
    const dialog = openDialog(file.split("/").pop(), h("div.stack", {}, h("img.whole", { src: url("pictures/file", { file }), alt: file }),
      text ? h("pre", { tabindex: "0" }, text) : null, use ? h("div.row", {}, use) : null));
  }

  function restore(known) {
    base.value = known.base;
    prompt.value = known.prompt;
    negative.value = known.negative;
    sampler.value = known.sampler;
    for (const [key, input] of Object.entries(inputs)) input.value = known[key] ?? "";
    loras.set(known.loras);
    regions.set(known.regions, known.apart);
  }

  showHistory();
  listen("playground/watch", {}, { state: show }, signal);
}
