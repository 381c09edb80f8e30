"""Did the run train, and what was meant? Facts and findings from the files of a run, for its report and `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

from lorasmith.core.rounding_text import describe as describe_rounding
from lorasmith.core.rounding_text import warning as rounding_warning
from lorasmith.training.output.report.explanations import explanation_of
from lorasmith.training.output.report.phrases import phrases_with_trigger
from lorasmith.training.output.report.record import Event, Record
from lorasmith.training.output.report.tables import card, table

SMALLEST_CHANGE = 1e-4
"""|dW| / |W| of a component below which a picture hardly changes."""
LARGEST_CHANGE = 0.5
"""|dW| / |W| above which little of the base is left."""
MOSTLY_CLIPPED = 0.9


@dataclass(frozen=True)
class Finding:
    """Something about a run that its user should know."""

    severity: Literal["serious", "warning", "note"]
    text: str


@dataclass
class Health:
    """What a run did, by label, and what is wrong with it."""

    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    findings: list[Finding] = field(default_factory=list[Finding])
    changes: dict[str, float] = field(default_factory=dict[str, float])
    """|dW| / |W| of each component."""

    def add(self, severity: Literal["serious", "warning", "note"], text: str) -> None:
        self.findings.append(Finding(severity, text))


def health_of(record: Record) -> Health:
    """The facts and findings of a run, as far as its files have them."""
    health = Health()
    recorded = record.of("facts")
    facts: Event = recorded[-1] if recorded else {}
    add_adapters(health, facts)
    add_changes(health, facts)
    add_rounding(health, facts)
    add_rates(health, record, facts)
    add_clipping(health, record, facts)
    add_timesteps(health, facts)
    for event in record.of("converged"):
        criterion, reason = event.get("criterion"), event.get("reason")
        health.facts[f"converged, by {criterion}"] = f"at step {event.get('step')}: {reason}"
    add_broken_weights(health, record)
    add_captions(health, record)
    return health


def add_adapters(health: Health, facts: Event) -> None:
    """How many adapters got a gradient."""
    count, trained = facts.get("adapters"), facts.get("trained")
    if not isinstance(count, int) or not isinstance(trained, int):
        return
    health.facts["adapters that got a gradient"] = f"{trained:,} of {count:,}"
    if trained == 0:
        health.add("serious", "No adapter got a gradient: nothing was trained.")
    elif trained < count:
        names = ", ".join(str(name) for name in facts.get("untrained") or [])
        health.add(
            "serious", f"{count - trained:,} of {count:,} adapters got no gradient and were not trained: {names}."
        )


def add_changes(health: Health, facts: Event) -> None:
    """How far the weights moved, of each component and each block."""
    components = numbers_of(facts.get("change"))
    health.changes = components
    if components:
        health.facts["change of the weights, |dW| / |W|"] = shown(components)
    blocks = numbers_of(facts.get("change_by_block"))
    if blocks:
        health.facts["by block"] = shown(blocks)
    for component, change in components.items():
        if change < SMALLEST_CHANGE:
            text = f"The weights of {component} moved by {change:.1e} of their size, which is too little to see."
            health.add("warning", f"{text} Train longer, or with a higher learning rate.")
        elif change > LARGEST_CHANGE:
            text = f"The weights of {component} moved by {change:.2f} of their size: little of the base is left."
            health.add("warning", f"{text} The learning rate is too high.")


def add_rounding(health: Health, facts: Event) -> None:
    """What is left of the change on a base that is stored in few bits."""
    losses = facts.get("rounding")
    if not isinstance(losses, dict):
        return
    for kind, loss in losses.items():
        if not isinstance(loss, dict) or not all(isinstance(loss.get(key), float) for key in ("unchanged", "error")):
            continue
        health.facts[f"added into a base in {kind}"] = describe_rounding(loss)
        if text := rounding_warning(kind, loss):
            # fp8 loses most of nearly every LoRA, and few bases are stored so
            health.add("note" if kind == "fp8" else "warning", text)


def add_rates(health: Health, record: Record, facts: Event) -> None:
    """The effective learning rate: the change is scaled by alpha / rank, so its rate is too."""
    scale = facts.get("scale")
    rates: list[str] = []
    for name, points in record.learning_rates().items():
        values = [rate for _, rate in points]
        mean, highest = sum(values) / len(values), max(values)
        text = f"{name} {mean:.3g} on average, {highest:.3g} at most"
        if isinstance(scale, int | float) and scale != 1:
            text += f"; x {scale:.3g} (alpha / rank) = {mean * scale:.3g}"
        rates.append(text)
        if highest == 0:
            health.add("serious", f"The learning rate of {name} was 0 in all steps.")
    if rates:
        health.facts["effective learning rate"] = "; ".join(rates)


def add_clipping(health: Health, record: Record, facts: Event) -> None:
    """In how many steps the gradient was clipped."""
    clip = facts.get("clip")
    norms = [norm for _, norm in record.points("step", "grad_norm")]
    if not isinstance(clip, int | float) or clip <= 0 or not norms:
        return
    clipped = sum(norm > clip for norm in norms)
    share = clipped / len(norms)
    health.facts["clipped steps"] = f"{clipped:,} of {len(norms):,} ({share:.0%}), at a norm of {clip:g}"
    if share > MOSTLY_CLIPPED:
        middle = sorted(norms)[len(norms) // 2]
        text = f"Nearly every gradient was clipped: optimizer.clip is {clip:g}, and the median norm {middle:.3g}."
        health.add("note", f"{text} All steps are of the same size then, whatever the loss.")


def add_timesteps(health: Health, facts: Event) -> None:
    """Which part of the path from data to noise was trained."""
    counts = facts.get("timesteps")
    if not isinstance(counts, list) or not counts or not all(isinstance(count, int) for count in counts):
        return
    seen = sum(count > 0 for count in counts)
    health.facts["timesteps seen"] = f"{seen / len(counts):.0%} of the path from image to noise"
    missing = list(gaps(counts))
    # the draws of a very short run miss parts by chance
    if missing and sum(counts) >= 10 * len(counts):
        ranges = ", ".join(f"{start / len(counts):.0%} to {end / len(counts):.0%}" for start, end in missing)
        health.add("warning", f"Timesteps at {ranges} of the path (0 % image, 100 % noise) were never trained.")


def gaps(counts: list[int]) -> Iterator[tuple[int, int]]:
    """The ranges of parts with a count of 0, as first part and the one after the last."""
    start: int | None = None
    for part, count in enumerate([*counts, 1]):
        if count == 0 and start is None:
            start = part
        elif count > 0 and start is not None:
            yield start, part
            start = None


def add_broken_weights(health: Health, record: Record) -> None:
    """Since when the model predicts nothing that is a number."""
    since: int | None = None
    for event in record.of("validation"):
        if event.get("loss") is not None:
            since = None
        elif since is None:
            since = event["step"]
    if since is not None:
        text = (
            f"The loss on held-out images is not a number since step {since:,}: the weights from then on are of no use."
        )
        health.add("serious", text)


def add_captions(health: Health, record: Record) -> None:
    """Captions that are cut off, what goes with the trigger, and how the trigger is read."""
    images = [image for image in record.data.get("images") or [] if isinstance(image, dict)]
    remarks = [remark for remark in record.data.get("remarks") or [] if isinstance(remark, dict)]
    cut = {remark.get("file") for remark in remarks if remark.get("kind") in ("long_caption", "trigger_cut_off")}
    if images:
        health.facts["captions that are cut off"] = f"{len(cut):,} of {len(images):,} images"
    if cut:
        health.add("warning", f"The captions of {len(cut):,} images are longer than what is read of them; see Data.")

    add_missing_trigger(health, record, remarks)
    add_phrases(health, record, images)
    add_trigger_tokens(health, record)


def add_missing_trigger(health: Health, record: Record, remarks: list[dict[str, Any]]) -> None:
    """How many captions lack the trigger. The severities are those of `lorasmith check`."""
    missing = [remark for remark in remarks if remark.get("kind") == "trigger"]
    if not missing:
        return
    trigger = ", ".join(str(word) for word in record.summary_value("trigger") or [])
    if any(remark.get("severity") == "serious" for remark in missing):
        health.add("serious", f"No caption of {len(missing):,} images has the trigger {trigger}: it was not trained.")
    else:
        lack = "1 caption does" if len(missing) == 1 else f"{len(missing):,} captions do"
        health.add("warning", f"{lack} not have the trigger {trigger}; see Data.")


def add_phrases(health: Health, record: Record, images: list[dict[str, Any]]) -> None:
    """What stands beside the trigger in nearly all captions."""
    trigger = [str(word) for word in record.summary_value("trigger") or []]
    captions = [str(text) for image in images for text in (image.get("captions") or [])[:1]]
    phrases = phrases_with_trigger(captions, trigger)
    if phrases:
        named = ", ".join(f"{phrase} ({share:.0%})" for phrase, share in phrases.items())
        health.facts["goes with the trigger"] = named
        text = f"In nearly all captions the trigger comes with {named}."
        health.add(
            "note", f"{text} What these words say is then theirs, and not the trigger's: write them in prompts too."
        )


def add_trigger_tokens(health: Health, record: Record) -> None:
    """How the tokenizer cuts the trigger. Letters carry a new meaning better than digits, which have one already."""
    read = record.data.get("trigger_tokens")
    if not isinstance(read, dict):
        return
    parts = {str(word): [str(token) for token in tokens] for word, tokens in read.items() if isinstance(tokens, list)}
    if parts:
        shown_tokens = "; ".join(f"{word}: {' + '.join(tokens)}" for word, tokens in parts.items())
        health.facts["the trigger is read as"] = shown_tokens
    for word, tokens in parts.items():
        if any(any(character.isdigit() for character in token) for token in tokens):
            text = f"The trigger {word} has digits, each a token ({' + '.join(tokens)})."
            health.add("note", f"{text} Letters carry a new meaning better.")


def numbers_of(values: Any) -> dict[str, float]:
    """A table of numbers in an event; entries that are no numbers are left out."""
    entries = values.items() if isinstance(values, dict) else ()
    return {str(name): float(value) for name, value in entries if isinstance(value, int | float)}


def shown(values: dict[str, float]) -> str:
    """`unet: 5.19%, te: 4.65%`."""
    return ", ".join(f"{name}: {100 * value:.3g}%" for name, value in values.items())


COMPONENT_TITLES = {"unet": "the UNet", "te": "the text encoder"}


def answer(health: Health) -> str:
    """Whether it trained, in a sentence. Empty for a run whose files do not say how far the weights moved."""
    if not health.changes:
        return ""
    severities = {finding.severity for finding in health.findings}
    if "serious" in severities:
        return "Not all of it: see the lines in red."
    moved = ", ".join(f"{COMPONENT_TITLES.get(name, name)} by {value:.2%}" for name, value in health.changes.items())
    ending = " See the remarks below." if "warning" in severities else ""
    said = "Hardly" if min(health.changes.values()) < SMALLEST_CHANGE else "Yes"
    return f"{said}. The weights moved: {moved} of their size.{ending} Whether the LoRA is good, only pictures can say."


def health_section(record: Record) -> str:
    """The answer, the findings (those that are serious in red), and the facts as a table."""
    health = health_of(record)
    if not health.facts:
        return ""
    said = f"<p>{escape(text)}</p>" if (text := answer(health)) else ""
    items = [f'<li class="{finding.severity}">{escape(finding.text)}</li>' for finding in health.findings]
    findings = f'<ul class="findings">{"".join(items)}</ul>' if items else ""
    return f"<h2>Did it train?</h2>{said}{findings}{card('', table(health.facts, explanation_of))}"
