// Elements from JavaScript. Data becomes text nodes and attributes, never HTML: there is no way to pass markup.

/**
 * An element: h("button.primary", {onclick: save, disabled: true}, "Save").
 * Names may carry classes. Properties that begin with "on" are listeners (functions); `class`, `style` (an object) and
 * `data` (an object) are set as such; null, undefined and false leave an attribute out.
 */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  return filled(element, classes, properties, children);
}

/** The same for SVG. */
export function svg(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return filled(element, classes, properties, children);
}

function filled(element, classes, properties, children) {
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.classList.add(...value.split(" ").filter(Boolean));
    else if (key === "style") for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

/** Append children: elements, texts, numbers, lists of them; null, undefined and false are left out. */
export function append(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Replace everything in an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, ...children);
}

/** A message at the foot of the page: of kind "" (done) or "error". */
export function toast(text, kind = "") {
  const item = h("div.toast", { class: kind }, text);
  const close = h("button.plain", { "aria-label": "Close this message", onclick: () => item.remove() }, "×");
  item.append(close);
  document.getElementById("toasts").append(item);
  setTimeout(() => item.remove(), kind === "error" ? 20000 : 5000);
}

/** Run an action; what goes wrong is shown as a message. Returns its result, or undefined. */
export async function attempt(action, done = "") {
  try {
    const result = await action();
    if (done) toast(done);
    return result;
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, "error");
    return undefined;
  }
}

/** A dialog with a title and content; returns the element. Escape closes it. `onclose` is called when it is closed. */
export function openDialog(title, content, onclose = () => {}) {
  const dialog = h("dialog", { "aria-label": title });
  const close = h("button.plain.close", { "aria-label": "Close", onclick: () => dialog.close() }, "×");
  append(dialog, h("header", {}, h("h2", {}, title), close), content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    onclose();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A box that says that there is nothing yet, and what to do. */
export function empty(title, ...text) {
  return h("div.empty", {}, h("h2", {}, title), h("p", {}, ...text));
}

/** 1234.5 as "1,235"; with digits for numbers below 100. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  if (Math.abs(value) < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

/** Seconds as "48 s", "12 min", "3 h 05 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** Bytes as "1.2 MB". */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  if (count < 1e6) return `${Math.max(1, Math.round(count / 1e3))} kB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(2)} GB`;
}

/** Load pages/NAME.css once; resolves when it applies, so that nothing is shown without its style. */
export function useStyle(name) {
  const address = `/static/pages/${name}.css`;
  if (document.querySelector(`link[href="${address}"]`)) return Promise.resolve();
  return new Promise((resolve) => {
    const link = h("link", { rel: "stylesheet", href: address, onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}
