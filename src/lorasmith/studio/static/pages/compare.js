// LoRA files side by side, with the same prompts and seeds; a blind vote; and a copy of the best one to pass on.
import { get, post, url } from "../api.js";
import { attempt, empty, fill, h, openDialog, useStyle } from "../dom.js";

export const title = "Compare";

export async function render(root, parameters, signal) {
  const [{ files, bases }] = await Promise.all([get("compare/choices", {}, signal), useStyle("compare")]);
  const base = h("input", { list: "compare-bases", value: bases[0] });
  const chosen = h("select", { multiple: true, size: 6, "aria-label": "Files" }, files.map((name, i) => h("option", { value: name, selected: i < 2 }, name)));
  const strengths = h("input", { value: "1" });
  const prompts = h("textarea", { rows: 3 }, "a photo");
  const seed = h("input", { type: "number", value: 0, min: 0 });
  const count = h("input", { type: "number", value: 1, min: 1, max: 8 });
  const blind = h("input", { type: "checkbox", onchange: show });
  const button = h("button.primary", {}, "Draw");
  const table = h("div.scroll");
  const field = (label, input) => h("label.field", {}, label, input);
  let columns = [];
  let votes = new Map();

  const form = h("form.card.stack", {}, h("div.columns", {}, h("div.stack", {}, field("LoRA files", chosen), field("Base model", base)),
    h("div.stack", {}, field("Prompts, one on each line", prompts), h("div.row", {}, field("Strengths", strengths), field("First seed", seed), field("Seeds", count)))),
  h("datalist", { id: "compare-bases" }, bases.map((value) => h("option", { value }))),
  h("div.row", {}, button, h("label.check", {}, blind, "Blind: names are hidden, click the better picture of each row")));
  form.addEventListener("submit", draw);
  fill(root, h("div.head", {}, h("h1", {}, "Compare")), files.length ? form : empty("No LoRA files", "Exports of runs appear here."), table);

  async function draw(event) {
    event.preventDefault();
    const lines = prompts.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const body = { base: base.value, prompts: lines, seed: Number(seed.value), count: Number(count.value) };
    const factors = strengths.value.split(/[\s,]+/u).map(Number).filter(Number.isFinite);
    const wanted = [{ label: "base alone" }];
    for (const option of chosen.selectedOptions) {
      for (const strength of factors) wanted.push({ file: option.value, strength, label: `${option.value.split("/").pop()} × ${strength}` });
    }
    button.disabled = true;
    columns = [];
    votes = new Map();
    for (const [i, each] of wanted.entries()) {
      button.textContent = `Drawing ${i + 1} of ${wanted.length}…`;
      const drawn = await attempt(() => post("compare/draw", { ...body, file: each.file ?? "", strength: each.strength ?? 1 }, signal));
      if (signal.aborted) return;
      if (drawn) columns.push({ ...each, pictures: drawn.pictures });
      show();
    }
    button.disabled = false;
    button.textContent = "Draw";
  }

  function show() {
    if (!columns.length) return;
    const order = blind.checked ? shuffled(columns.filter((each) => each.file)) : columns;
    const head = h("tr", {}, order.map((each, i) => h("th", {}, blind.checked ? `${i + 1}` : `${each.label}${votes.get(each) ? `, ${votes.get(each)} votes` : ""}`, " ",
      each.file && !blind.checked ? h("button.plain", { onclick: () => shipFile(each) }, "Ship this one") : null)));
    const rows = columns[0].pictures.map((_, row) => h("tr", {}, order.map((each) => h("td", {}, h("button.picture", {
      "aria-label": blind.checked ? "The better one" : `${each.label}, picture ${row + 1}`,
      onclick: (event) => (blind.checked ? vote(each, event.currentTarget) : zoom(each, row)),
    }, h("img", { src: url("pictures/file", { file: each.pictures[row] }), alt: "" }))))));
    fill(table, h("table.compare", {}, h("thead", {}, head), h("tbody", {}, rows)));
  }

  function vote(column, pressed) {
    const row = pressed.closest("tr");
    if (row.classList.contains("voted")) return;
    row.classList.add("voted");
    pressed.classList.add("better");
    votes.set(column, (votes.get(column) ?? 0) + 1);
  }

  function zoom(column, row) {
    openDialog(column.label, h("img.whole", { src: url("pictures/file", { file: column.pictures[row] }), alt: column.label }));
  }

  function shipFile(column) {
    const inputs = Object.fromEntries(["trigger", "title", "author", "license", "notes", "hint"].map((name) => [name, h("input", { name })]));
    const overwrite = h("input", { type: "checkbox" });
    const labels = { trigger: "Trigger words", title: "Title", author: "Author", license: "Licence", notes: "What it is", hint: "How to use it" };
    const card = h("form.stack", {}, h("img.card-picture", { src: url("pictures/file", { file: column.pictures[0] }), alt: "The picture of the card" }),
      Object.entries(inputs).map(([name, input]) => field(labels[name], input)),
      h("label.check", {}, overwrite, "Replace an earlier one"), h("div.row", {}, h("button.primary", {}, "Write the file")));
    const dialog = openDialog(`Ship ${column.label}`, card);
    card.addEventListener("submit", async (event) => {
      event.preventDefault();
      const texts = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value]));
      const written = await attempt(() => post("compare/ship", { file: column.file, picture: column.pictures[0], overwrite: overwrite.checked, ...texts }));
      if (!written) return;
      fill(card, h("p", {}, "Written: ", h("strong.wrap", {}, written.file)), h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
    });
  }
}

function shuffled(items) {
  const mixed = [...items];
  for (let i = mixed.length - 1; i > 0; i -= 1) {
    const j = Math.floor(Math.random() * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}
