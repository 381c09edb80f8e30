// Training images: the folders that have some, and one folder with its captions, masks and remarks.
import { get, url } from "../api.js";
import { empty, fill, h, number, useStyle } from "../dom.js";
import { showFolder } from "../data/folder.js";
import { href } from "../router.js";

export const title = "Data";

export async function render(root, parameters, signal) {
  await useStyle("data");
  if (parameters.folder) {
    await showFolder(root, parameters, signal);
    return;
  }
  const { folders, count } = await get("data/folders", {}, signal);
  const none = empty("No images", "There are no images below the folders of the studio.");
  fill(root, h("div.head", {}, h("h1", {}, "Data")), folders.length ? list(folders, count, signal) : none);
}

// The first folders, and a button for the next ones while there are more.
function list(first, count, signal) {
  let shown = first.length;
  const cards = h("div.folders", {}, first.map(card));
  const rest = h("div.row");
  const update = () => fill(rest, shown >= count ? [] : [
    h("span.soft", {}, `${number(shown)} of ${number(count)} folders`),
    h("button", { onclick: more }, "Show more"),
  ]);
  async function more() {
    const next = await get("data/folders", { first: shown }, signal);
    cards.append(...next.folders.map(card));
    // folders may have been removed meanwhile
    shown = next.folders.length ? shown + next.folders.length : count;
    update();
  }
  update();
  return h("div.stack", {}, cards, rest);
}

function card(folder) {
  const pictures = folder.examples.map((file) =>
    h("img", { src: url("pictures/small", { file, side: 192 }), alt: "", loading: "lazy" }));
  const repeats = folder.repeats > 1 ? `, ${folder.repeats} times in an epoch` : "";
  return h("a.card.folder", { href: href("data", { folder: folder.name }) },
    h("div.examples", {}, pictures),
    h("strong.wrap", {}, folder.name),
    h("span.soft.small", {}, `${number(folder.images)} images${repeats}`));
}
