// One folder of images: search, captions, remarks, and what changes many captions at once.
import { get, post } from "../api.js";
import { attempt, fill, h, number, toast } from "../dom.js";
import { href, remember } from "../router.js";
import { imageGrid } from "./grid.js";
import { chooseCaptioner, editTags, findAndReplace, showDuplicates } from "./tools.js";
import { openViewer } from "./viewer.js";

const CHECKED_BY_ITSELF = 300;
const FILTERS = {
  "": ["All images", () => true],
  remarks: ["With remarks", (image) => image.remarks.length > 0],
  caption: ["Without a caption", (image) => !image.caption && !image.isWaiting],
  trigger: ["Without the trigger", (image, set) => set.trigger && !image.isWaiting && !hasWord(image.caption, set.trigger)],
  long: ["Longer than is read", (image, set) => image.tokens > set.limit],
};

/** Whether a caption has a word, whatever the case. */
export function hasWord(caption, word) {
  return (caption ?? "").toLowerCase().includes(word.toLowerCase());
}

export async function showFolder(root, parameters, signal) {
  const folder = parameters.folder;
  const opened = await get("data/open", { folder }, signal);
  const set = new ImageSet(folder, parameters, opened, signal);

  const search = h("input", { type: "search", placeholder: "Find in names and captions", "aria-label": "Find", oninput: draw });
  const filter = h("select", { "aria-label": "Show", onchange: draw });
  for (const [value, [text]] of Object.entries(FILTERS)) filter.append(h("option", { value }, text));
  const undo = h("button", { onclick: () => set.undo(), disabled: true }, "Undo");
  const count = h("span.soft.small.number");
  const trigger = h("input", { value: set.trigger, placeholder: "none", size: 12, onchange: settingsChanged });
  const resolution = h("input", { type: "number", min: 64, max: 4096, step: 64, value: set.resolution, onchange: settingsChanged });
  const check = h("button", { onclick: runCheck }, "Check");
  const notes = h("div", { hidden: true });
  const grid = imageGrid(set, signal);
  const tool = (text, action) => h("button", { onclick: action }, text);

  fill(root,
    h("div.head", {}, h("div", {}, h("h1", {}, folder), h("div.soft.small.wrap", {}, opened.path)),
      h("a.button", { href: href("data") }, "All folders")),
    h("div.card.row.tools", {},
      h("label.field", {}, "Trigger", trigger), h("label.field", {}, "Resolution", resolution),
      h("div.row.grow", {}, check,
        tool("Add trigger", () => set.changeAll("The trigger was added to", (c) => withTrigger(c, set.trigger))),
        tool("Remove trigger", () => set.changeAll("The trigger was removed from", (c) => withoutTrigger(c, set.trigger))),
        tool("Find and replace", () => findAndReplace(set)),
        tool("Tags", () => editTags(set, (tag) => { search.value = tag; draw(); })),
        tool("Near-duplicates", () => showDuplicates(set, () => runCheck())),
        tool("Caption by a model", () => chooseCaptioner(set, reload))),
      undo),
    notes,
    h("div.head", {}, h("div.row.grow", {}, search, filter), count),
    grid.element);
  const tools = [...root.querySelectorAll(".tools button")].filter((button) => button !== check && button !== undo);
  const allowTools = () => {
    for (const button of tools) button.disabled = !opened.can_write || set.isLoading;
  };
  allowTools();

  function draw() {
    const text = search.value.trim().toLowerCase();
    const fits = FILTERS[filter.value][1];
    const shown = set.images.filter((image) => fits(image, set)
      && (!text || image.name.toLowerCase().includes(text) || (image.caption ?? "").toLowerCase().includes(text)));
    count.textContent = shown.length === set.images.length
      ? `${number(shown.length)} images` : `${number(shown.length)} of ${number(set.images.length)} images`;
    if (set.isLoading) count.textContent += ", captions are being read";
    undo.disabled = !set.history.length;
    drawNotes();
    grid.show(shown);
  }

  function drawNotes() {
    const lines = [...set.notes];
    if (opened.table) lines.unshift(opened.can_write ? `The captions are in ${opened.table}; it is changed here.` : `The captions are in ${opened.table}; change them there.`);
    if (opened.repeats > 1) lines.unshift(`The name of the folder says that each image is repeated ${opened.repeats} times.`);
    notes.className = "notice";
    notes.hidden = !lines.length;
    fill(notes, h("ul", {}, lines.slice(0, 12).map((line) => h("li", {}, line))));
  }

  function settingsChanged() {
    set.trigger = trigger.value.trim();
    set.resolution = Number(resolution.value) || 512;
    remember("data", set.parameters());
    for (const image of set.images) image.detail = null;
    grid.forget();
    draw();
  }

  async function runCheck() {
    check.disabled = true;
    check.textContent = "Checking…";
    await attempt(() => set.check());
    check.disabled = false;
    check.textContent = "Check";
    draw();
  }

  async function reload() {
    const again = await attempt(() => get("data/open", { folder }, signal));
    if (again) set.replace(again.images, again.later);
    grid.forget();
    draw();
    await readOthers();
  }

  // Captions of thousands of images take a second; what changes all of them waits for that.
  async function readOthers() {
    if (!set.isLoading) return;
    allowTools();
    const others = await attempt(() => get("data/captions", { folder }, signal));
    if (!others) return;
    set.addCaptions(others.images);
    allowTools();
    draw();
  }

  set.onchange = draw;
  set.openImage = (image) => openViewer(set, image, draw);
  draw();
  readOthers();
  if (set.images.length && set.images.length <= CHECKED_BY_ITSELF) runCheck();
}

function withTrigger(caption, trigger) {
  if (!trigger || hasWord(caption, trigger)) return caption;
  return caption ? `${trigger}, ${caption}` : trigger;
}

function withoutTrigger(caption, trigger) {
  if (!trigger || !caption) return caption;
  const word = trigger.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // With the comma or the space that held it.
  return caption.replace(new RegExp(`(^|[\\s,])${word}(?=$|[\\s,])\\s*,?\\s*`, "giu"), "$1").replace(/[\s,]+$/u, "");
}

/** The images of a folder as the page knows them. Every change of a caption goes through `change`. */
class ImageSet {
  constructor(folder, parameters, opened, signal) {
    this.folder = folder;
    this.signal = signal;
    this.path = opened.path;
    this.config = parameters.config ?? "";
    this.trigger = parameters.trigger ?? "";
    this.resolution = Number(parameters.resolution) || 512;
    this.limit = opened.limit;
    this.history = [];
    this.notes = [];
    this.onchange = () => {};
    this.replace(opened.images, opened.later);
  }

  /** Show other images: `images` with their captions, and the names of those whose captions come `later`. */
  replace(images, later) {
    this.isLoading = later.length > 0;
    const waiting = later.map((name) => ({ name, caption: null, tokens: null, isWaiting: true }));
    const old = new Map((this.images ?? []).map((image) => [image.name, image]));
    this.images = [...images, ...waiting].map((image) => ({ remarks: old.get(image.name)?.remarks ?? [], detail: null, ...image }));
    this.byName = new Map(this.images.map((image) => [image.name, image]));
  }

  /** The captions that came later. A file that is new since the names were read is shown with the next load. */
  addCaptions(images) {
    this.isLoading = false;
    for (const image of images) {
      const known = this.byName.get(image.name);
      if (known?.isWaiting) Object.assign(known, image, { isWaiting: false });
    }
  }

  parameters() {
    const { folder, trigger, resolution, config } = this;
    return { folder, ...(trigger && { trigger }), ...(resolution !== 512 && { resolution }), ...(config && { config }) };
  }

  /** Write captions: [{name, before, after}]. Returns whether that was possible. */
  async change(changes, undoing = false) {
    const real = changes.filter((change) => change.before !== change.after);
    if (!real.length) return true;
    const result = await attempt(() => post("data/captions", { folder: this.folder, changes: real }));
    if (!result) return false;
    for (const image of result.images) Object.assign(this.byName.get(image.name), image);
    if (!undoing) this.history.push(real);
    this.onchange();
    return true;
  }

  /** Change all captions by a function of the caption. */
  async changeAll(sentence, edit, images = this.images) {
    const changes = images
      .map((image) => ({ name: image.name, before: image.caption, after: edit(image.caption ?? "") || null }))
      .filter((change) => (change.before ?? "") !== (change.after ?? ""));
    if (!changes.length) toast("No caption changes.");
    else if (await this.change(changes)) toast(`${sentence} ${changes.length} captions.`);
  }

  async undo() {
    const last = this.history.pop();
    if (!last) return;
    const inverse = last.map(({ name, before, after }) => ({ name, before: after, after: before }));
    if (!(await this.change(inverse, true))) this.history.push(last);
    else toast(`${last.length} ${last.length === 1 ? "caption is" : "captions are"} as before.`);
  }

  /** The remarks of `lorasmith check`. */
  async check() {
    const { folder, trigger, resolution, config } = this;
    const result = await get("data/check", { folder, trigger, resolution, config }, this.signal);
    for (const image of this.images) image.remarks = [];
    this.notes = result.errors.map((error) => [error.where, error.found, error.remedy].filter(Boolean).join(": "));
    for (const remark of result.remarks) {
      const image = remark.file.startsWith(this.path) && this.byName.get(remark.file.slice(this.path.length + 1));
      // Files of this folder are named without it.
      const text = remark.text.replaceAll(`${this.path}/`, "");
      if (image) image.remarks.push({ ...remark, text });
      else if (!config || remark.file === this.path) this.notes.push(remark.text);
    }
    const unnamed = result.unused.filter((name) => !this.notes.some((note) => note.includes(name)));
    if (unnamed.length) {
      const more = unnamed.length > 8 ? ` and ${unnamed.length - 8} more` : "";
      this.notes.push(`Not used: ${unnamed.slice(0, 8).join(", ")}${more}`);
    }
  }
}
