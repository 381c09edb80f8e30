// Line charts: axes, lines, and the values under the pointer or chosen with the arrow keys.
import { append, h, number, svg } from "./dom.js";

const HEIGHT = 250;
const BOX = { left: 54, right: 12, top: 12, bottom: 28 };
const STYLES = ["main", "second", "third", "fourth", "fifth"];
const OUTLIERS = 0.01;

/** A chart element. `update(chart)` draws {title, lines: [{name, points: [[x, y]], style}]} anew. */
export function lineChart() {
  const title = h("h3");
  const legend = h("div.legend");
  const readout = h("div.readout.small.soft.number", { "aria-live": "polite" });
  const picture = svg("svg", { height: HEIGHT, tabindex: "0", role: "img" });
  const element = h("figure.card.chart", {}, h("figcaption.row", {}, title, legend), picture, readout);
  const state = { lines: [], width: 0, x: null, cursor: null, step: null };

  const showAt = (step) => {
    if (!state.x || !state.lines.length) return;
    state.step = Math.min(state.x.high, Math.max(state.x.low, step));
    const values = state.lines.map((line) => [line.name, nearest(line.points, state.step)]);
    const at = values[0][1][0];
    for (const end of ["x1", "x2"]) state.cursor.setAttribute(end, state.x.at(at));
    state.cursor.style.opacity = "0.6";
    readout.textContent = `step ${number(at)}: ${values.map(([name, point]) => `${name} ${number(point[1])}`).join(", ")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    if (state.x) showAt(state.x.from(event.clientX - box.left));
  });
  picture.addEventListener("pointerleave", () => {
    readout.textContent = "";
    if (state.cursor) state.cursor.style.opacity = "0";
  });
  picture.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction || !state.x) return;
    event.preventDefault();
    showAt((state.step ?? state.x.high) + (direction * (state.x.high - state.x.low)) / 60);
  });

  const update = (chart) => {
    title.textContent = chart.title;
    picture.setAttribute("aria-label", `${chart.title}; arrow keys show values`);
    state.lines = chart.lines.map((line, i) => ({ ...line, style: line.style || STYLES[Math.min(i, STYLES.length - 1)] }));
    const keys = state.lines.map((line) => h("span.key", { class: line.style }, line.name));
    legend.replaceChildren(...(keys.length > 1 ? keys : []));
    draw(picture, state);
  };
  // Drawn in pixels of the screen, so that texts have one size everywhere.
  new ResizeObserver(([entry]) => {
    state.width = entry.contentRect.width;
    draw(picture, state);
  }).observe(picture);
  return { element, update };
}

function draw(picture, state) {
  if (state.width < BOX.left + BOX.right + 20) return;
  const x = scale(extent(state.lines, 0), BOX.left, state.width - BOX.right);
  const y = scale(padded(extent(state.lines, 1)), HEIGHT - BOX.bottom, BOX.top);
  state.x = x;
  state.cursor = svg("line.cursor", { y1: BOX.top, y2: HEIGHT - BOX.bottom });
  picture.replaceChildren();
  for (const value of ticks(y.low, y.high, 5)) {
    const place = y.at(value);
    append(picture, svg("line.grid", { x1: BOX.left, x2: state.width - BOX.right, y1: place, y2: place }));
    append(picture, svg("text", { x: BOX.left - 8, y: place + 4, "text-anchor": "end" }, label(value)));
  }
  for (const value of ticks(x.low, x.high, Math.max(3, Math.min(9, state.width / 90)))) {
    append(picture, svg("text", { x: x.at(value), y: HEIGHT - 8, "text-anchor": "middle" }, label(value)));
  }
  for (const line of state.lines) {
    const inside = ([step, value]) => `${x.at(step).toFixed(1)},${y.at(clamp(value, y.low, y.high)).toFixed(1)}`;
    if (line.points.length === 1) {
      const [cx, cy] = inside(line.points[0]).split(",");
      append(picture, svg("circle", { class: line.style, cx, cy, r: 4 }));
    } else append(picture, svg("polyline", { class: line.style, points: line.points.map(inside).join(" ") }));
  }
  append(picture, state.cursor);
}

// The lowest and highest value. Single values of noisy lines may leave the picture, so that the rest can be read.
function extent(lines, axis) {
  let values = [];
  for (const line of lines) {
    const own = line.points.map((point) => point[axis]);
    if (axis === 1 && line.style === "raw" && own.length > 50) {
      own.sort((a, b) => a - b);
      const cut = Math.floor(own.length * OUTLIERS);
      values = values.concat(own.slice(cut, own.length - cut));
    } else values = values.concat(own);
  }
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!Number.isFinite(low)) return [0, 1];
  if (low === high) return [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
  return [low, high];
}

function padded([low, high]) {
  const margin = (high - low) * 0.06;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

function scale([low, high], from, to) {
  return {
    low,
    high,
    at: (value) => from + ((value - low) / (high - low)) * (to - from),
    from: (place) => low + ((place - from) / (to - from)) * (high - low),
  };
}

function ticks(low, high, count) {
  const exact = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(exact));
  const distance = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= exact * 0.999);
  const values = [];
  for (let i = Math.ceil(low / distance); i * distance <= high; i += 1) values.push(i * distance);
  return values;
}

function label(value) {
  if (Math.abs(value) < 1e-12) return "0";
  if (Math.abs(value) >= 1e4) return `${Number((value / 1000).toPrecision(4))}k`;
  return Math.abs(value) < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(4)));
}

function nearest(points, step) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= step) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
