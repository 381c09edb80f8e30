// One image in full: its remarks, the crop, and its mask, which can be painted.
import { post, upload, url } from "../api.js";
import { attempt, fill, h, openDialog } from "../dom.js";
import { pictureParts, shape } from "./grid.js";

const LONGEST_SIDE = 1024;

/** Show an image; `onchange` is called when its mask has changed. */
export function openViewer(set, image, onchange) {
  if (!image.detail || image.detail.problem) return;
  const file = `${set.folder}/${image.name}`;
  const stage = h("div.viewer-stage");
  const remarks = h("ul.small", {}, image.remarks.map((remark) => h("li", { data: { severity: remark.severity } }, remark.text)));
  const tools = h("div.row");
  const facts = h("p.soft.small.number");
  const content = h("div.stack", {}, stage, tools, facts, image.caption ? h("p", {}, image.caption) : null,
    image.remarks.length ? remarks : null);
  const dialog = openDialog(image.name, content);

  const look = () => {
    const { size, bucket, lost } = image.detail;
    const frame = shape(h("div.frame", {}, pictureParts(set, image, file, 768)), size);
    fill(stage, frame);
    facts.textContent = `${size.join(" × ")} pixels, trained in ${bucket.join(" × ")}; `
      + `the crop cuts off ${Math.round(lost * 100)} %`;
    fill(tools,
      h("button.primary", { onclick: paint }, image.detail.mask ? "Change the mask" : "Paint a mask"),
      image.detail.mask ? h("button.danger", { onclick: remove }, "Delete the mask") : null);
  };
  const remove = async () => {
    const done = await attempt(() => post("data/remove_mask", { folder: set.folder, name: image.name }));
    if (!done) return;
    delete image.detail.mask;
    onchange();
    look();
  };
  const paint = async () => {
    const editor = await maskEditor(set, image, url("pictures/small", { file, side: 768, v: image.detail.changed }));
    fill(stage, editor.element);
    const save = async () => {
      const blob = await editor.picture();
      const saved = await attempt(() => upload("data/mask", { folder: set.folder, name: image.name }, blob), "The mask is saved.");
      if (!saved) return;
      image.detail.mask = saved.changed;
      onchange();
      look();
    };
    fill(tools, editor.tools, h("button.primary", { onclick: save }, "Save the mask"), h("button", { onclick: look }, "Cancel"));
  };
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target.matches("input, textarea")) return;
    const next = set.images[set.images.indexOf(image) + step];
    if (!next?.detail) return;
    dialog.close();
    openViewer(set, next, onchange);
  });
  look();
}

// A canvas over the picture. What is painted counts in the loss; the rest is shown dark.
async function maskEditor(set, image, source) {
  const [width, height] = image.detail.size;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = h("canvas.paint", {
    width: Math.round(width * scale), height: Math.round(height * scale), tabindex: "0",
    "aria-label": "Mask: paint what counts in the loss",
  });
  const mask = new OffscreenCanvas(canvas.width, canvas.height);
  const context = mask.getContext("2d");
  const view = canvas.getContext("2d");
  if (image.detail.mask) await loadMask(context, url("data/mask", { folder: set.folder, name: image.name, v: image.detail.mask }));

  const size = h("input", { type: "range", min: 4, max: 240, value: 60, "aria-label": "Size of the brush" });
  const erase = h("button", { "aria-pressed": "false" }, "Erase");
  erase.addEventListener("click", () => erase.setAttribute("aria-pressed", String(erase.ariaPressed !== "true")));
  const draw = () => {
    view.globalCompositeOperation = "source-over";
    view.clearRect(0, 0, canvas.width, canvas.height);
    view.fillStyle = "rgb(8 10 16 / 72%)";
    view.fillRect(0, 0, canvas.width, canvas.height);
    view.globalCompositeOperation = "destination-out";
    view.drawImage(mask, 0, 0);
  };
  const all = (on) => {
    context.globalCompositeOperation = on ? "source-over" : "destination-out";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    draw();
  };

  let last = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = canvas.width / box.width;
    return [(event.clientX - box.left) * share, (event.clientY - box.top) * share, share];
  };
  const stroke = (event) => {
    const [x, y, share] = at(event);
    context.globalCompositeOperation = erase.ariaPressed === "true" || event.altKey ? "destination-out" : "source-over";
    context.strokeStyle = "#fff";
    context.lineCap = "round";
    context.lineWidth = Number(size.value) * share;
    context.beginPath();
    context.moveTo(...(last ?? [x, y]));
    context.lineTo(x + 0.01, y);
    context.stroke();
    last = [x, y];
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
  draw();

  const picture = async () => {
    const flat = new OffscreenCanvas(canvas.width, canvas.height);
    const paper = flat.getContext("2d");
    paper.fillStyle = "#000";
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(mask, 0, 0);
    return flat.convertToBlob({ type: "image/png" });
  };
  const frame = shape(h("div.frame", {}, h("img", { src: source, alt: image.name }), canvas), [width, height]);
  const tools = [h("label.check", {}, "Brush", size), erase,
    h("button", { onclick: () => all(true) }, "Everything"), h("button", { onclick: () => all(false) }, "Nothing")];
  return { element: frame, tools, picture };
}

// White of the file becomes paint; black becomes nothing.
async function loadMask(context, source) {
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const { width, height } = context.canvas;
  context.drawImage(picture, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i];
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
  }
  context.putImageData(pixels, 0, 0);
}
