// Changes of many captions at once, and near-duplicates.
import { get, post, url } from "../api.js";
import { attempt, fill, h, number, openDialog, toast } from "../dom.js";

/** Replace a text in all captions. */
export function findAndReplace(set) {
  const find = h("input", { autofocus: true });
  const replacement = h("input");
  const matchCase = h("input", { type: "checkbox" });
  const preview = h("p.soft.small");
  const button = h("button.primary", { disabled: true }, "Replace");
  const pattern = () => new RegExp(find.value.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), matchCase.checked ? "gu" : "giu");
  const edit = (caption) => caption.replace(pattern(), () => replacement.value);
  const count = () => {
    const hits = find.value ? set.images.filter((image) => edit(image.caption ?? "") !== (image.caption ?? "")) : [];
    button.disabled = !hits.length;
    preview.textContent = find.value ? `Changes ${number(hits.length)} captions.` : "";
    if (hits.length) preview.textContent += ` The first one becomes: ${edit(hits[0].caption ?? "")}`;
  };
  for (const input of [find, replacement, matchCase]) input.addEventListener("input", count);
  const form = h("form.stack", {}, h("label.field", {}, "Find", find), h("label.field", {}, "Replace by", replacement),
    h("label.check", {}, matchCase, "Match case"), preview, h("div.row", {}, button));
  const dialog = openDialog("Find and replace", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    dialog.close();
    await set.changeAll("Replaced in", edit);
  });
}

/** The parts of captions between commas, with their counts; a part can be renamed or removed everywhere. */
export function editTags(set, onselect) {
  const list = h("tbody");
  const dialog = openDialog("Tags", h("div.scroll", {}, h("table.tags", {}, list)));
  const draw = () => {
    const counts = new Map();
    for (const image of set.images) {
      for (const tag of new Set(tagsOf(image.caption))) counts.set(tag, (counts.get(tag) ?? 0) + 1);
    }
    const rows = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 500);
    fill(list, rows.map(([tag, count]) => {
      const name = h("input", { value: tag, "aria-label": `Rename ${tag}` });
      name.addEventListener("change", () => rename(tag, name.value.trim()));
      return h("tr", {}, h("td", {}, name), h("td.number", {}, number(count)), h("td.row", {},
        h("button.plain", { onclick: () => { dialog.close(); onselect(tag); } }, "Show"),
        h("button.plain.danger", { onclick: () => rename(tag, "") }, "Remove")));
    }));
  };
  const rename = async (from, to) => {
    await set.changeAll(to ? "Renamed in" : "Removed from", (caption) => {
      const tags = tagsOf(caption);
      if (!tags.includes(from)) return caption;
      // A tag that is there already does not come twice.
      return [...new Set(tags.map((tag) => (tag === from ? to : tag)).filter(Boolean))].join(", ");
    });
    draw();
  };
  draw();
}

function tagsOf(caption) {
  return (caption ?? "").split(",").map((tag) => tag.trim()).filter(Boolean);
}

/** Images that look like another one, side by side. */
export async function showDuplicates(set, check) {
  if (!set.images.some((image) => image.remarks.length)) await check();
  const pairs = [];
  for (const image of set.images) {
    for (const remark of image.remarks.filter((each) => each.kind === "duplicate")) {
      const other = set.images.find((each) => new RegExp("[\\s/\\\\]$").test(remark.text.slice(0, -each.name.length))
        && remark.text.endsWith(each.name));
      pairs.push({ image, other, text: remark.text });
    }
  }
  const side = (image) => image && h("figure", {}, h("img", {
    src: url("pictures/small", { file: `${set.folder}/${image.name}`, side: 384 }), alt: image.name, loading: "lazy",
  }), h("figcaption.small.soft.wrap", {}, image.name));
  const content = pairs.length
    ? h("div.stack", {}, pairs.map((pair) => h("div.card", {}, h("div.twins", {}, side(pair.other), side(pair.image)),
      h("p.small", {}, `${pair.image.name} ${pair.text}`))))
    : h("p", {}, "No image looks like another one.");
  openDialog("Near-duplicates", content);
}

/** Captions by a model in a local folder, for the images that have none or for all. */
export async function chooseCaptioner(set, done) {
  const model = h("input", { placeholder: "folder of the model, below the folders of the studio", autofocus: true });
  const all = h("input", { type: "checkbox" });
  const prefix = h("input", { value: set.trigger ? `${set.trigger}, ` : "" });
  const { models } = (await attempt(() => get("data/captioners"))) ?? { models: [] };
  if (models.length) model.value = models[0].name;
  const list = h("datalist", { id: "captioners" }, models.map((each) => h("option", { value: each.name }, each.kind)));
  model.setAttribute("list", "captioners");
  const button = h("button.primary", {}, "Write captions");
  const note = "A captioning model (transformers) or a tagging model (ONNX, such as the WD taggers). Nothing is downloaded.";
  const form = h("form.stack", {}, h("p.soft.small", {}, note), h("label.field", {}, "Model", model), list,
    h("label.field", {}, "Before each caption", prefix),
    h("label.check", {}, all, "Also replace the captions that are there"), h("div.row", {}, button));
  const dialog = openDialog("Caption by a model", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    button.textContent = "Writing…";
    const body = { folder: set.folder, model: model.value, prefix: prefix.value, overwrite: all.checked };
    const result = await attempt(() => post("data/caption_by_model", body));
    button.disabled = false;
    button.textContent = "Write captions";
    if (!result) return;
    dialog.close();
    toast(`${result.written} captions were written.`);
    await done();
  });
}
