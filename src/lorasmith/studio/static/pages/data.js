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
  const { folders } = await get("data/folders", {}, signal);
  const none = empty("No images", "There are no images below the folders of the studio.");
  fill(root, h("div.head", {}, h("h1", {}, "Data")),
    folders.length ? h("div.folders", {}, folders.map(card)) : none);
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
