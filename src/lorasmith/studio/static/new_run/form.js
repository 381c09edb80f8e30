// The settings of a config as a form: some are shown, all others are found by searching.
import { fill, h, number } from "../dom.js";

const SHOWN = ["base", "data.images", "trigger", "output", "views_per_image", "steps", "data.resolution", "data.batch_size",
  "adapter", "adapter.rank", "optimizer.lr", "optimizer.text_lr", "lr_schedule", "preview.prompts"];
const MOST_FOUND = 40;

/** `onchange(changes)`: by key {value}, {toml}, or null where the default is meant. */
export function settingsForm(settings, choices, onchange) {
  let values = {};
  let problems = [];
  const fields = new Map();
  const search = h("input", { type: "search", placeholder: `Search all ${settings.length} settings`, "aria-label": "Search all settings", oninput: draw });
  const onlySet = h("input", { type: "checkbox", onchange: draw });
  const list = h("div.settings");
  const count = h("span.soft.small.number");
  const element = h("div.card.stack", {},
    h("div.row", {}, h("h2.grow", {}, "Settings"), h("label.check.small", {}, onlySet, "only what is set")),
    h("div.row", {}, h("div.grow.stack", {}, search), count), list);

  // The kind of `adapter` is its text or the `kind` of its table; without both, its default.
  const kindOf = (key) => {
    const value = values[key];
    const given = typeof value === "string" ? value : value?.kind;
    return given ?? settings.find((each) => each.key === key)?.default;
  };
  const applies = (setting) => {
    if (!setting.of) return true;
    const [key, kind] = setting.of.split("=");
    return kindOf(key) === kind;
  };

  function chosen() {
    const words = search.value.trim().toLowerCase().split(/\s+/u).filter(Boolean);
    const all = settings.filter(applies);
    if (words.length) {
      const text = (each) => `${each.key} ${each.about}`.toLowerCase();
      const found = all.filter((each) => words.every((word) => text(each).includes(word)));
      const inKey = (each) => words.every((word) => each.key.includes(word));
      return found.sort((a, b) => inKey(b) - inKey(a));
    }
    if (onlySet.checked) return all.filter((each) => values[each.key] !== undefined);
    const wrong = all.filter((each) => !SHOWN.includes(each.key) && problemOf(each.key));
    return [...SHOWN.map((key) => all.find((each) => each.key === key)).filter(Boolean), ...wrong];
  }

  function draw() {
    const rows = chosen();
    count.textContent = search.value ? `${number(rows.length)} found` : "";
    fields.clear();
    fill(list, rows.slice(0, MOST_FOUND).map((setting) => {
      const made = field(setting);
      fields.set(setting.key, made);
      return made.element;
    }));
  }

  const problemOf = (key) => problems.find((each) => each.where === key || each.where === `${key}.kind`);

  function field(setting) {
    const id = `setting-${setting.key}`;
    const input = inputOf(setting, id);
    const wrong = h("div.wrong", { id: `${id}-wrong`, role: "status" });
    const isDefault = setting.default === null || setting.default === "" ? "" : ` Default: ${JSON.stringify(setting.default)}.`;
    const row = h("div.setting", {}, h("label", { for: id }, setting.key), input, wrong,
      h("div.about", {}, `${setting.about}${isDefault}`));
    const mark = () => {
      const problem = problemOf(setting.key);
      row.classList.toggle("is-wrong", Boolean(problem));
      wrong.textContent = problem ? [problem.found, problem.allowed && `allowed: ${problem.allowed}`, problem.remedy].filter(Boolean).join("; ") : "";
    };
    mark();
    return { element: row, input, setting, mark, show: () => { if (document.activeElement !== input) put(input, setting); } };
  }

  function inputOf(setting, id) {
    const kinds = setting.kinds?.map((each) => each.kind);
    const isChoice = Array.isArray(setting.input) || setting.input === "kind";
    let input;
    if (setting.input === "bool") input = h("input", { type: "checkbox", id });
    else if (isChoice) {
      const options = kinds ?? setting.input;
      input = h("select", { id }, setting.default === null ? h("option", { value: "" }, "–") : null, options.map((value) => h("option", { value }, String(value))));
    } else if (setting.input === "lines") input = h("textarea", { id, rows: setting.key.endsWith("prompts") ? 4 : 2, placeholder: "one on each line" });
    else {
      const numeric = setting.input === "number";
      input = h("input", { id, type: "text", ...(numeric && { inputmode: "decimal" }), autocomplete: "off" });
      if (setting.key === "base") input.setAttribute("list", "bases");
      if (setting.key.endsWith("images")) input.setAttribute("list", "image-folders");
    }
    input.setAttribute("aria-describedby", `${id}-wrong`);
    put(input, setting);
    input.addEventListener(input.type === "checkbox" || isChoice ? "change" : "input", () => onchange(Object.fromEntries(changesOf(input, setting))));
    return input;
  }

  // What the config has, or what its default is.
  function put(input, setting) {
    const value = values[setting.key];
    if (setting.input === "kind") input.value = kindOf(setting.key) ?? "";
    else if (setting.input === "bool") input.checked = value ?? setting.default ?? false;
    else if (Array.isArray(setting.input)) input.value = value ?? setting.default ?? "";
    else if (setting.input === "lines") input.value = (Array.isArray(value) ? value : value === undefined ? [] : [value]).join("\n");
    else if (setting.input === "toml") input.value = value === undefined ? "" : asToml(value);
    else input.value = value ?? "";
    if (input.type === "text" && setting.default !== null && typeof setting.default !== "object") input.placeholder = String(setting.default);
  }

  function changesOf(input, setting) {
    const text = input.value;
    if (setting.input === "kind") {
      // Settings of the kind before would be unknown to the new one.
      const others = settings.filter((each) => each.of?.startsWith(`${setting.key}=`) && each.of !== `${setting.key}=${text}`);
      const mine = new Set(settings.filter((each) => each.of === `${setting.key}=${text}`).map((each) => each.key));
      const gone = others.map((each) => each.key).filter((key) => values[key] !== undefined && !mine.has(key));
      return [...gone.map((key) => [key, null]), [`${setting.key}.kind`, text ? { value: text } : null]];
    }
    if (setting.input === "bool") return [[setting.key, { value: input.checked }]];
    if (Array.isArray(setting.input)) return [[setting.key, text === "" ? null : { value: setting.input.find((each) => String(each) === text) }]];
    if (text.trim() === "") return [[setting.key, null]];
    if (setting.input === "lines") return [[setting.key, { value: text.split("\n").map((line) => line.trim()).filter(Boolean) }]];
    if (setting.input === "number" && /^[-+]?[\d.]+(e[-+]?\d+)?$/iu.test(text.trim())) return [[setting.key, { toml: text.trim().replace(/^\./u, "0.") }]];
    if (setting.input === "toml" && /^[-+\d["{]|^(true|false)$/u.test(text.trim())) return [[setting.key, { toml: text.trim() }]];
    return [[setting.key, { value: text }]];
  }

  return {
    element,
    show(next) {
      const before = settings.filter(applies).length;
      values = next;
      // Another kind has other settings.
      if (!fields.size || before !== settings.filter(applies).length || ![...fields.values()].every((each) => applies(each.setting))) {
        if (!element.contains(document.activeElement) || document.activeElement.tagName === "SELECT" || !fields.size) {
          const focused = document.activeElement?.id;
          draw();
          if (focused) document.getElementById(focused)?.focus();
        }
      }
      for (const each of fields.values()) each.show();
    },
    showProblems(next) {
      problems = next;
      for (const each of fields.values()) each.mark();
    },
    reveal(key) {
      if (!fields.has(key)) {
        search.value = key;
        draw();
      }
      (fields.get(key) ?? [...fields.values()][0])?.input.focus();
    },
  };
}

// A value as TOML writes it, on one line.
function asToml(value) {
  if (Array.isArray(value)) return `[${value.map(asToml).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{ ${Object.entries(value).map(([key, each]) => `${key} = ${asToml(each)}`).join(", ")} }`;
  return JSON.stringify(value);
}
