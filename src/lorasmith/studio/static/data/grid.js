// A grid of any number of images, of which only those in sight are in the page.
import { post, url } from "../api.js";
import { fill, h, number } from "../dom.js";

const GAP = 14;
const NARROWEST = 250;
const HEIGHT = 404;
const ROWS_AROUND = 2;
const DETAILS_AT_ONCE = 100;

/** {element, show(images), forget()} */
export function imageGrid(set, signal) {
  const element = h("div.grid-of-images", { role: "list" });
  let images = [];
  let cards = new Map();
  let columns = 1;
  let scheduled = false;

  const place = () => {
    scheduled = false;
    const width = element.clientWidth;
    if (!width) return;
    columns = Math.max(1, Math.floor((width + GAP) / (NARROWEST + GAP)));
    const side = (width - GAP * (columns - 1)) / columns;
    element.style.height = `${Math.ceil(images.length / columns) * (HEIGHT + GAP)}px`;

    const top = -element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / (HEIGHT + GAP)) - ROWS_AROUND) * columns;
    const last = (Math.ceil((top + window.innerHeight) / (HEIGHT + GAP)) + ROWS_AROUND) * columns;
    const wanted = new Map();
    images.slice(first, Math.max(0, last)).forEach((image, i) => wanted.set(image, first + i));

    // A card that is being edited stays, or what was typed would be lost.
    for (const [image, card] of cards) {
      if (!wanted.has(image) && !card.element.contains(document.activeElement)) {
        card.element.remove();
        cards.delete(image);
      }
    }
    for (const [image, index] of wanted) {
      if (!cards.has(image)) {
        cards.set(image, imageCard(set, image));
        element.append(cards.get(image).element);
      }
      const style = cards.get(image).element.style;
      style.width = `${side}px`;
      style.transform = `translate(${(index % columns) * (side + GAP)}px, ${Math.floor(index / columns) * (HEIGHT + GAP)}px)`;
    }
    loadDetails([...wanted.keys()].filter((image) => !image.detail));
  };
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(place);
  };

  let loading = false;
  const loadDetails = async (missing) => {
    if (loading || !missing.length) return;
    loading = true;
    try {
      const names = missing.slice(0, DETAILS_AT_ONCE).map((image) => image.name);
      const { details } = await post("data/details", { folder: set.folder, names, resolution: set.resolution }, signal);
      for (const detail of details) {
        const image = set.byName.get(detail.name);
        if (!image) continue;
        image.detail = detail;
        cards.get(image)?.update();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    } finally {
      loading = false;
    }
    schedule();
  };

  window.addEventListener("scroll", schedule, { signal, passive: true });
  const observer = new ResizeObserver(schedule);
  observer.observe(element);
  signal.addEventListener("abort", () => observer.disconnect());

  const show = (shown) => {
    images = shown;
    for (const card of cards.values()) card.update();
    schedule();
  };
  const forget = () => {
    cards.forEach((card) => card.element.remove());
    cards = new Map();
    schedule();
  };
  return { element, show, forget };
}

function imageCard(set, image) {
  const file = `${set.folder}/${image.name}`;
  const frame = h("div.frame");
  const open = h("button.picture", { "aria-label": `Open ${image.name}`, onclick: () => set.openImage(image) }, frame);
  const remarks = h("div.remark.small.clip");
  const caption = h("textarea", { rows: 4, "aria-label": `Caption of ${image.name}`, spellcheck: "false" });
  const tokens = h("span.small.number");
  const facts = h("span.small.soft.number");
  const save = async () => {
    const after = caption.value.trim() === "" && image.caption === null ? null : caption.value.trim();
    if (after === image.caption) return;
    const name = image.name;
    if (!(await set.change([{ name, before: image.caption, after }]))) caption.classList.add("unsaved");
    else caption.classList.remove("unsaved");
  };
  caption.addEventListener("change", save);
  caption.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      caption.blur();
    }
    if (event.key === "Escape") caption.value = image.caption ?? "";
  });
  const element = h("article.item", { role: "listitem" }, h("div.stage", {}, open), remarks,
    h("div.row.name", {}, h("span.clip.grow.small", { title: image.name }, image.name)), caption,
    h("div.row.foot", {}, tokens, facts));

  const update = () => {
    if (document.activeElement !== caption) caption.value = image.caption ?? "";
    caption.disabled = image.isWaiting === true;
    caption.placeholder = image.isWaiting ? "being read" : set.trigger ? `none: trained as "${set.trigger}"` : "no caption";
    tokens.textContent = image.tokens === null ? "" : `${image.tokens} of ${set.limit} tokens`;
    tokens.classList.toggle("too-long", image.tokens > set.limit);
    const { detail } = image;
    const size = detail?.size;
    facts.textContent = size ? `${size.join("×")} → ${detail.bucket.join("×")}` : "";
    if (detail && frame.dataset.version !== versionOf(detail)) {
      frame.dataset.version = versionOf(detail);
      fill(frame, detail.problem ? null : pictureParts(set, image, file));
    }
    shape(frame, size ?? [1, 1]);
    const worst = detail?.problem ? { text: detail.problem, severity: "serious" } : mostSerious(image.remarks);
    remarks.textContent = worst ? worst.text : "";
    remarks.title = image.remarks.map((remark) => remark.text).join("\n");
    remarks.dataset.severity = worst?.severity ?? "";
    element.dataset.severity = worst?.severity ?? "";
  };
  update();
  return { element, update };
}

/** Give the frame of a picture its shape. The style sheet needs the ratio as a number, to fit it into a height. */
export function shape(frame, [width, height]) {
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.setProperty("--ratio", width / height);
  return frame;
}

/** The picture, what the crop leaves of it, and its mask. */
export function pictureParts(set, image, file, side = 384) {
  const { detail } = image;
  const parts = [h("img", { src: url("pictures/small", { file, side, v: detail.changed }), alt: image.caption ?? image.name })];
  if (detail.mask) {
    parts.push(h("img.mask", { src: url("data/mask", { folder: set.folder, name: image.name, v: detail.mask }), alt: "" }));
  }
  if (detail.lost > 0.005) {
    const [left, top, right, bottom] = detail.crop.map((share) => `${share * 100}%`);
    const style = { left, top, width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` };
    parts.push(h("div.crop", { style, title: `The crop cuts off ${number(Math.round(detail.lost * 100))} %` }));
  }
  return parts;
}

function mostSerious(remarks) {
  const order = ["serious", "warning", "note"];
  return [...remarks].sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity))[0];
}

// What the picture of a card depends on.
function versionOf(detail) {
  return [detail.changed, detail.mask, detail.bucket, detail.problem].join(" ");
}
