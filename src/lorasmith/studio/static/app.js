// The frame: navigation, and the page of the address.
import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { href, start } from "./router.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");

try {
  const session = await get("session");
  const links = new Map(session.pages.map((page) => [page.name, h("a", { href: href(page.name) }, page.title)]));
  const parents = new Map(session.hidden_pages.map((page) => [page.name, page.parent]));
  fill(nav, [...links.values()]);
  await start(main, [...links.keys(), ...parents.keys()], (current) => {
    for (const [name, link] of links) {
      if (name === (parents.get(current) ?? current)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  });
} catch (error) {
  fill(main, h("div.problem", { role: "alert" }, error.message));
}
