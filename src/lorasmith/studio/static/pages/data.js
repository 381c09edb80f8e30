// Training images: captions, masks and remarks. (The page follows.)
import { get, url } from "../api.js";
import { empty, fill, h, number, useStyle } from "../dom.js";
import { href } from "../router.js";

export const title = "Data";

export async function render(root, parameters, signal) {
  await useStyle("data");
  const { folders } = await get("data/folders", {}, signal);
  fill(root, h("div.head", {}, h("h1", {}, "Data")),
    folders.length ? h("div.folders", {}, folders.map(card)) : empty("No images", "There are no images below the folders of the studio."));
}

function card(folder) {
  const pictures = folder.examples.map((file) => h("img", { src: url("pictures/small", { file, side: 96 }), alt: "", loading: "lazy" }));
  return h("a.card.folder", { href: href("data", { folder: folder.name }) }, h("div.examples", {}, pictures),
    h("strong.wrap", {}, folder.name), h("span.soft.small", {}, `${number(folder.images)} images`));
}
