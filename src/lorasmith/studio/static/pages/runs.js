// All runs below the folders of the studio.
import { get } from "../api.js";
import { empty, fill, h } from "../dom.js";

export const title = "Runs";

export async function render(root, parameters, signal) {
  const { runs } = await get("runs/list", {}, signal);
  fill(root, h("div.head", {}, h("h1", {}, "Runs")), runs.length ? null : empty("No runs yet", "Start one."));
}
