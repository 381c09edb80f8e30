// A new run: few answers make a config, which can then be changed as a form or as TOML; problems show at their fields.
import { get, post } from "../api.js";
import { attempt, duration, fill, h, number, openDialog, toast, useStyle } from "../dom.js";
import { settingsForm } from "../new_run/form.js";
import { go } from "../router.js";

export const title = "New run";

const MEMORIES = [6, 8, 12, 16, 24, 48];
const CHECK_AFTER = 350;
const FULL_CHECK_AFTER = 1500;

export async function render(root, parameters, signal) {
  const [choices, settings] = await Promise.all([
    get("new_run/choices", {}, signal), fetch("/static/settings.json", { signal }).then((response) => response.json()),
    useStyle("new_run")]);
  const config = { toml: "", values: {}, trusted: false };
  let timer = 0;
  let pending = {};
  let version = 0;

  const problems = h("ul.problems");
  const state = h("span.soft.small", { role: "status" });
  const trust = h("button", { hidden: true, onclick: () => { config.trusted = true; checkNow(true); } }, "Trust this code");
  const measured = h("div.measured.row", { hidden: true });
  const text = h("textarea", { spellcheck: "false", "aria-label": "The config as TOML", oninput: () => changed({}, text.value) });
  const accept = h("input", { type: "checkbox" });
  const form = settingsForm(settings, choices, (changes) => changed(changes, config.toml));
  const editor = h("div.sides", { hidden: true },
    form.element,
    h("div.card.stack.text", {}, h("div.row", {}, h("h2.grow", {}, "TOML"), state), problems, trust, measured, text,
      h("label.check.small", {}, accept, "Train although there are serious remarks on the data"),
      h("div.row", {},
        h("button.primary", { onclick: start }, "Start the run"),
        h("button", { onclick: enqueue }, "Add to the queue"),
        h("button", { onclick: addSweep }, "Sweep…"),
        h("button", { onclick: measure }, "Measure time and memory"))));
  fill(root, h("div.head", {}, h("h1", {}, "New run")), questions(), editor);
  if (parameters.config) await openFile(parameters.config);

  function questions() {
    const list = (id, values) => h("datalist", { id }, values.map((value) => h("option", { value })));
    const base = h("input", { list: "bases", value: choices.base, required: true });
    const images = h("input", { list: "image-folders", value: Object.keys(choices.images)[0] ?? "", required: true });
    const trigger = h("input", { placeholder: "such as mia", autocomplete: "off" });
    const name = h("input", { placeholder: "as the trigger", autocomplete: "off" });
    const subject = h("select", {}, choices.subjects.map((value) => h("option", { value }, value)));
    const memory = h("select", {}, MEMORIES.map((gib) => h("option", { value: gib, selected: gib === 12 }, `${gib} GB`)));
    const file = h("select", { "aria-label": "Open a config", onchange: () => file.value && openFile(file.value) },
      h("option", { value: "" }, "Or open a config…"), choices.configs.map((value) => h("option", { value }, value)));
    const make = async (event) => {
      event.preventDefault();
      const label = (name.value.trim() || trigger.value.trim() || images.value.split("/").pop() || "lora").replace(/[^\w.-]+/gu, "-");
      const body = { base: base.value, images: images.value, trigger: trigger.value, subject: subject.value,
        memory: Number(memory.value), output: `${choices.runs}/${label}` };
      const made = await attempt(() => post("new_run/recipe", body));
      if (made) show(made);
    };
    const field = (label, input) => h("label.field", {}, label, input);
    return h("form.card.stack", { onsubmit: make },
      h("div.answers", {}, field("Base model", base), field("Folder of images", images), field("Trigger word", trigger),
        field("It is a", subject), field("Memory of the card", memory), field("Name", name)),
      list("bases", choices.bases), list("image-folders", Object.keys(choices.images)),
      h("div.row", {}, h("button.primary", {}, "Make a config"), file));
  }

  async function openFile(file) {
    const opened = await attempt(() => get("new_run/open", { file }));
    if (!opened) return;
    // The folder of that run is taken; the new one needs its own.
    show(opened);
    if (opened.values.output) changed({ output: { value: `${opened.values.output}-2` } }, opened.toml);
  }

  function show(made) {
    Object.assign(config, made, { trusted: false });
    editor.hidden = false;
    text.value = made.toml;
    form.show(made.values);
    checkNow(false).then(() => checkNow(true));
  }

  // A change of the form or of the text: the other one follows, then it is checked.
  function changed(changes, toml) {
    config.toml = toml;
    Object.assign(pending, changes);
    const mine = ++version;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        const result = await post("new_run/edit", { toml: config.toml, changes: pending }, signal);
        if (mine !== version) return;
        pending = {};
        Object.assign(config, result);
        if (document.activeElement !== text) text.value = result.toml;
        form.show(result.values);
      } catch (error) {
        if (mine !== version || error.name === "AbortError") return;
        showProblems([{ where: Object.keys(pending)[0] ?? "", found: error.message }]);
        pending = {};
        return;
      }
      await checkNow(false);
      if (mine === version) timer = setTimeout(() => checkNow(true), FULL_CHECK_AFTER);
    }, Object.keys(changes).length ? 30 : CHECK_AFTER);
  }

  async function checkNow(full) {
    const mine = version;
    state.textContent = full ? "Checking base and images…" : "Checking…";
    try {
      const result = await post("new_run/check", { toml: config.toml, full, trusted: config.trusted }, signal);
      if (mine !== version) return;
      const serious = (result.images ?? []).filter((remark) => remark.severity === "serious");
      showProblems(result.errors, result.warnings,
        serious.map((remark) => ({ where: "data.images", found: `${remark.path.split("/").pop()} ${remark.text}` })));
      state.textContent = summary(result, full);
    } catch (error) {
      if (mine !== version || error.name === "AbortError") return;
      showProblems(error.problems?.length ? error.problems : [{ where: "", found: error.message }]);
      state.textContent = "";
    }
  }

  function summary(result, full) {
    if (result.errors.length || !full) return "";
    const { steps, epochs } = result.length ?? {};
    return [result.data?.images && `${number(result.data.images)} images`, steps && `${number(steps)} steps`,
      epochs && `${number(epochs, 1)} epochs`, result.device].filter(Boolean).join(" · ");
  }

  function showProblems(errors, warnings = [], serious = []) {
    trust.hidden = !errors.some((each) => each.where === "plugins" && each.found.includes("names code"));
    const line = (each, style) => h("li", { style: { color: `var(--${style})` } },
      each.where ? h("button.plain", { type: "button", onclick: () => form.reveal(each.where) }, each.where) : null, " ",
      [each.found, each.allowed && `allowed: ${each.allowed}`, each.remedy].filter(Boolean).join("; "));
    fill(problems, errors.map((each) => line(each, "bad")), serious.map((each) => line(each, "bad")),
      warnings.map((each) => line(each, "warn")));
    form.showProblems([...errors, ...serious, ...warnings]);
  }

  async function measure() {
    measured.hidden = false;
    fill(measured, h("span.soft", {}, "Two steps are being made…"));
    const result = await attempt(() => post("new_run/measure", { toml: config.toml }, signal));
    if (!result?.measured) {
      measured.hidden = true;
      if (result) showProblems(result.errors, result.warnings);
      return;
    }
    const { hours, peak_memory: peak, seconds_per_step: each } = result.measured;
    fill(measured, h("b", {}, duration(hours * 3600)), `for all steps (${number(each, 2)} s each), `,
      h("b", {}, `${number(peak / 2 ** 30, 2)} GiB`), "of memory");
  }

  async function start() {
    const body = { toml: config.toml, accept_remarks: accept.checked };
    const started = await attempt(() => post("new_run/start", body));
    if (!started) return;
    state.textContent = "Starting…";
    // Until the run has its first event, its page has nothing to show.
    while (!signal.aborted) {
      const now = await attempt(() => get("new_run/progress", { run: started.run }, signal));
      if (!now) return;
      if (now.begun) return void go("run", { run: started.run });
      if (now.exit_code !== null) {
        state.textContent = "";
        return void toast(`The run has not started:\n${now.console.trim()}`, "error");
      }
      await new Promise((resolve) => { setTimeout(resolve, 400); });
    }
  }

  function addSweep() {
    const over = h("textarea", { rows: 4, required: true, autofocus: true, placeholder: "adapter.rank=4,8,16\noptimizer.lr=1e-4,5e-4" });
    const form = h("form.stack", {}, h("label.field", {}, "A setting and its values on each line; every combination is trained", over),
      h("div.row", {}, h("button.primary", {}, "Add the sweep to the queue")));
    const dialog = openDialog("Sweep", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const lines = over.value.split("\n").map((line) => line.trim()).filter(Boolean);
      const added = await attempt(() => post("new_run/sweep", { toml: config.toml, over: lines }), "Added to the queue.");
      if (!added) return;
      dialog.close();
      go("queue");
    });
  }

  async function enqueue() {
    const body = { toml: config.toml, accept_remarks: accept.checked };
    const added = await attempt(() => post("new_run/queue", body), "Added to the queue.");
    if (added) go("queue");
  }
}
