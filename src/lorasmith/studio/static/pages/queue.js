// The jobs of the queue, in their order.
import { get, listen, post } from "../api.js";
import { attempt, empty, fill, h, number, openDialog, useStyle } from "../dom.js";
import { href } from "../router.js";
import { progressBar } from "../run_parts.js";

export const title = "Queue";

const STYLES = { running: "main", finished: "good", failed: "bad", stopped: "warn" };

export async function render(root, parameters, signal) {
  let [queue] = await Promise.all([get("queue/show", {}, signal), useStyle("queue")]);
  const buttons = h("div.row");
  const note = h("p.soft.small");
  const list = h("ol.jobs");
  fill(root, h("div.head", {}, h("h1", {}, "Queue"), buttons), note, list);

  const act = (action, job, place) => attempt(async () => {
    await post("queue/act", { action, job, place });
    await reload();
  });
  const reload = async () => {
    queue = await get("queue/show", {}, signal);
    draw();
  };

  function draw() {
    const waiting = queue.jobs.filter((job) => job.state === "waiting").length;
    const runs = queue.runner !== null && !queue.paused;
    fill(buttons,
      runs ? h("button", { onclick: () => act("pause") }, "Pause")
        : h("button.primary", { disabled: !waiting, onclick: run }, queue.paused ? "Go on" : "Start the queue"),
      h("button", { onclick: addJob }, "Add…"));
    note.textContent = [runs ? `Process ${queue.runner} runs the queue.` : queue.paused ? "Paused: nothing further is started." : "",
      `The queue is the folder ${queue.folder}; it goes on when the studio is stopped.`].filter(Boolean).join(" ");
    if (queue.jobs.length) fill(list, queue.jobs.map(row));
    else fill(list, empty("No jobs", "Make a config in New run and add it to the queue, or add one from a file."));
  }

  function row(job, place) {
    const button = (text, action, more = {}) => h("button.plain", { ...more, onclick: action }, text);
    const line = job.step === null || job.state === "waiting" ? null : progressBar(job.step, job.steps);
    return h("li.card.job", {},
      h("div.row", {}, h("strong.clip", {}, job.name), h("span.badge", { class: STYLES[job.state] ?? "" }, job.state),
        h("span.soft.small.clip.grow", {}, [job.output, job.device, job.loss && `loss ${number(job.loss)}`].filter(Boolean).join(" · ")),
        job.sweep ? h("a.small", { href: href("sweeps", { sweep: job.sweep }) }, "Open the sweep") : null,
        job.run ? h("a.small", { href: href("run", { run: job.run }) }, "Open the run") : null),
      line, job.message ? h("p.small.wrap", { class: job.state === "failed" ? "wrong" : "soft" }, job.message) : null,
      h("div.row", {},
        button("↑", () => act("move", job.name, place - 1), { "aria-label": `Move ${job.name} up`, disabled: place === 0 }),
        button("↓", () => act("move", job.name, place + 1), { "aria-label": `Move ${job.name} down`, disabled: place === queue.jobs.length - 1 }),
        ["running", "waiting"].includes(job.state) ? button("Stop", () => act("stop", job.name)) : null,
        ["failed", "stopped"].includes(job.state) ? button("Put back", () => act("retry", job.name)) : null,
        job.state === "running" ? null : button("Remove", () => act("remove", job.name)),
        button("Log and config", () => showLog(job))));
  }

  async function run() {
    await attempt(() => post("queue/run"));
    await reload();
  }

  async function showLog(job) {
    const shown = await attempt(() => get("queue/log", { job: job.name }));
    if (!shown) return;
    const changes = job.overrides.length ? h("pre", {}, job.overrides.join("\n")) : null;
    openDialog(job.name, h("div.stack", {}, h("pre", {}, shown.log || "Nothing was printed yet."), changes, h("pre", {}, shown.config)));
  }

  async function addJob() {
    const { configs, tables } = (await attempt(() => get("queue/configs"))) ?? { configs: [], tables: [] };
    const list = (id, names) => h("datalist", { id }, names.map((name) => h("option", { value: name })));
    const config = h("input", { list: "queue-configs", required: true, value: configs[0] ?? "", autofocus: true });
    const rows = h("input", { list: "queue-tables", placeholder: "a job for each line of a CSV file" });
    const folders = h("input", { placeholder: "a job for each folder of images in this one" });
    const overrides = h("textarea", { rows: 2, placeholder: "adapter.rank=8, one on each line" });
    const field = (label, input) => h("label.field", {}, label, input);
    const form = h("form.stack", {}, list("queue-configs", configs), list("queue-tables", tables), field("Config", config),
      field("Table", rows), field("Folder of folders", folders), field("Other settings", overrides),
      h("div.row", {}, h("button.primary", {}, "Add")));
    const dialog = openDialog("Add to the queue", form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const body = { config: config.value, rows: rows.value, folders: folders.value, overrides: overrides.value };
      const added = await attempt(() => post("queue/add", body));
      if (!added) return;
      dialog.close();
      await reload();
    });
  }

  draw();
  listen("queue/watch", {}, { queue: (now) => { queue = now; draw(); } }, signal);
}
