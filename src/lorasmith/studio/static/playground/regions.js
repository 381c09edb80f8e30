// Parts of the picture with their own prompts: rectangles drawn on a canvas, or typed as shares of the picture.
import { append, fill, h } from "../dom.js";

const COLOURS = ["--main", "--second", "--third", "--fourth", "--fifth"];
const EDGES = ["left", "top", "right", "bottom"];
const SMALLEST = 0.03;
const CANVAS = 320;

/** `size()` is [width, height] of the picture. `element`, `values()` as the config of regions, `set(regions)`, `resize()`. */
export function regionEditor(size) {
  const canvas = h("canvas.regions", { role: "img", "aria-label": "The picture: drag to draw a region; the fields below do the same" });
  const list = h("div.stack");
  const apart = h("input", { type: "number", min: 0, max: 1, step: 0.05, value: 0.3 });
  const add = h("button", { type: "button", onclick: () => addRegion([0, 0, 0.5, 1]) }, "Add a region");
  const apartField = h("label.field", { hidden: true }, "Share of the steps in which each region is a picture of its own", apart);
  let regions = [];
  let dragged = null;

  const colour = (i) => getComputedStyle(canvas).getPropertyValue(COLOURS[i % COLOURS.length]).trim() || "#2156c4";

  function addRegion(box, more = {}) {
    const prompt = h("input", { required: true, value: more.prompt ?? "", placeholder: "what is here" });
    const weight = h("input", { type: "number", min: 0, max: 1, step: 0.05, value: more.weight ?? 1 });
    const edges = EDGES.map((edge, i) => h("input", { type: "number", min: 0, max: 100, step: 1, "aria-label": `${edge} in percent`, title: `${edge}, %`, onchange: () => read(region, i) }));
    const region = { box, prompt, weight, edges };
    const remove = h("button.plain", { type: "button", onclick: () => { regions = regions.filter((each) => each !== region); show(); } }, "Remove");
    region.element = h("div.region.stack", {}, h("div.row", {}, h("span.dot"), h("label.field.grow", {}, "Prompt of the region", prompt), h("label.field", {}, "Weight", weight), remove),
      h("div.row.edges", {}, EDGES.map((edge, i) => h("label.field", {}, `${edge} %`, edges[i]))));
    regions.push(region);
    show();
    return region;
  }

  function read(region, i) {
    region.box[i] = Math.min(1, Math.max(0, Number(region.edges[i].value) / 100));
    draw();
  }

  function show() {
    fill(list);
    regions.forEach((region, i) => {
      region.element.querySelector(".dot").style.background = `var(${COLOURS[i % COLOURS.length]})`;
      region.edges.forEach((input, edge) => { input.value = Math.round(region.box[edge] * 100); });
      append(list, region.element);
    });
    apartField.hidden = regions.length === 0;
    draw();
  }

  function draw() {
    const [width, height] = size();
    const ratio = width && height ? width / height : 1;
    const scale = window.devicePixelRatio || 1;
    canvas.style.aspectRatio = String(ratio);
    canvas.width = CANVAS * scale * Math.min(1, ratio);
    canvas.height = CANVAS * scale / Math.max(1, ratio);
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const boxes = dragged ? [...regions.map((each) => each.box), boxOf(dragged)] : regions.map((each) => each.box);
    boxes.forEach(([left, top, right, bottom], i) => {
      const place = [left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height];
      pen.fillStyle = colour(i);
      pen.strokeStyle = colour(i);
      pen.globalAlpha = 0.25;
      pen.fillRect(...place);
      pen.globalAlpha = 1;
      pen.lineWidth = 2 * scale;
      pen.strokeRect(...place);
    });
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.min(1, Math.max(0, share)));
  };
  const boxOf = ({ from, to }) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    dragged = { from: at(event), to: at(event) };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    dragged.to = at(event);
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    if (!dragged) return;
    const box = boxOf(dragged).map((share) => Math.round(share * 100) / 100);
    dragged = null;
    if (box[2] - box[0] >= SMALLEST && box[3] - box[1] >= SMALLEST) addRegion(box).prompt.focus();
    else draw();
  });

  return {
    element: h("div.stack", {}, canvas, list, apartField, h("div.row", {}, add)),
    values: () => regions.map(({ box, prompt, weight }) => ({ box, prompt: prompt.value, weight: Number(weight.value) })),
    apart: () => (regions.length ? Number(apart.value) : 0),
    set: (given, share) => {
      regions = [];
      for (const each of given) addRegion([...each.box], each);
      if (share) apart.value = share;
      show();
    },
    resize: draw,
  };
}
