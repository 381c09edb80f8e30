"""How to use the LoRA of a run: which file, with which trigger, where."""

from __future__ import annotations

from html import escape

from lorasmith.core.shell_words import shell_word
from lorasmith.training.output.report.record import Event, Record


def use_section(record: Record) -> str:
    """The file to use with the commands and texts to copy; empty as long as there is no file."""
    event = file_to_use(record)
    if event is None:
        return ""
    file = str(event["file"])
    trigger = " ".join(str(word) for word in record.summary_value("trigger") or [])
    prompt = f"a photo of {trigger}" if trigger else "your prompt"
    base = str(record.summary_value("base", "source") or "BASE")
    path = str(record.folder / file)
    words = ["lorasmith", "sample", "--base", base, "--lora", path, "--prompt", prompt]
    command = " ".join(map(shell_word, [*words, *preview_options(record), "--output", "pictures"]))

    items = []
    items.append(f"<li>File: <b>{escape(file)}</b></li>")
    best = record.best or {}
    if best.get("reason"):
        what = "These are the best weights" if best.get("file") == file else label_of(best)
        items.append(f'<li><span class="done">{what}</span>: {escape(str(best["reason"]))}.</li>')
    if trigger:
        items.append(f"<li>Write <b>{escape(trigger)}</b> into the prompt.</li>")
    name = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    a1111 = f"&lt;lora:{escape(name)}:1&gt;"
    items.append(f"<li>In AUTOMATIC1111 and Forge: copy it to models/Lora, prompt <code>{a1111}</code>.</li>")
    items.append("<li>In ComfyUI: copy it to models/loras, node Load LoRA.</li>")
    return f'<h2>Use it like this</h2><ul class="use">{"".join(items)}</ul><pre>{escape(command)}</pre>'


def preview_options(record: Record) -> list[str]:
    """Options of `lorasmith sample` with which it draws as the last previews were drawn; none without previews."""
    events = record.of("preview")
    return [str(option) for option in events[-1].get("options") or []] if events else []


def label_of(best: Event) -> str:
    """What the reason of an event `best` is about: the best weights, or only a remark on the held-out loss."""
    return "Held-out loss" if best.get("remark") else "Best weights"


def file_to_use(record: Record) -> Event | None:
    """The event of the file to use: the export that was judged best, else the final file, else the newest export."""
    events = [*record.of("export"), *record.of("end")]
    if record.best is not None:
        events.append(record.best)
    usable = [event for event in events if event.get("file") and (record.folder / str(event["file"])).is_file()]
    return usable[-1] if usable else None
