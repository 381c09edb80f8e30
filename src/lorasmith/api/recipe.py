"""A config from few answers: the base, the folder, the trigger, what the LoRA is of, and the memory of the card.

`lorasmith new`, the studio's New run and most recipes come from here. The numbers are a start, and every one can be
changed; `docs/measurements/quality.md` says which of them are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorasmith.core.config import inline

FEWEST_TO_HOLD_OUT = 10
"""With fewer images none is held out for the validation loss."""
LITTLE_MEMORY = 10.0
"""GiB. Below, only the UNet is trained, so that encoded captions can be cached and the text encoder freed."""


MIN_SNR = '{ kind = "min_snr", gamma = 5.0 }'
UP_BLOCKS_AND_TEXT = ("unet.up_blocks.*attentions*", "te.*")


@dataclass(frozen=True)
class ShortRun:
    """What differs in a run on a base that comes with the package: it is small, and learns within minutes."""

    steps: int
    lr: str
    text_lr: str
    """Empty: the text encoders are not trained."""
    every: int
    """Steps between previews, and between exports."""
    cfg: float
    resolution: int = 128
    batch: int = 8
    layers: tuple[str, ...] = ()
    """Of the adapters, where the text encoder is trained too. Empty: the usual ones."""
    weighting: str = MIN_SNR
    """Of the loss over t."""
    rank: int | None = None
    """None: that of the subject."""


SHORT_RUNS = {
    "tiny-sd": ShortRun(
        steps=110,
        lr="1.75e-3",
        text_lr="1.75e-3",
        every=40,
        cfg=3.5,
        batch=6,
        layers=UP_BLOCKS_AND_TEXT,
        weighting='{ kind = "p2" }',
        rank=32,
    ),
    "tiny-flow": ShortRun(steps=300, lr="2.4e-3", text_lr="", every=100, cfg=4.0),
}
"""By the name of an embedded base."""


@dataclass(frozen=True)
class Subject:
    """What a LoRA can be of, and what follows from that."""

    rank: int
    views: int
    """How often each image is seen."""
    text_lr: float
    """Learning rate of the text encoder of SD 1.x and 2.x. SDXL's are not trained."""
    prompts: tuple[str, ...]
    """For previews. The last one is without the trigger: it should stay as the base draws it."""
    unnamed: str = ""
    """Stands in these prompts for a trigger, if there is none. Empty: nothing does."""


SUBJECTS = {
    "character": Subject(
        16, 100, 5e-5, ("a photo of {}", "a photo of {}, on a beach", "a painting of {}", "a photo of a woman"), "a man"
    ),
    "object": Subject(
        8, 100, 5e-5, ("a photo of {}", "a photo of {}, on a table", "a drawing of {}", "a photo of a chair"), "a cup"
    ),
    # a style is not bound to a word as firmly as a character
    "style": Subject(
        32, 60, 0.0, ("a house on a hill, {}", "a portrait of a man, {}", "a bowl of fruit, {}", "a photo of a street")
    ),
    "concept": Subject(
        16, 80, 5e-5, ("a woman, {}", "a man, {}, in a garden", "a drawing of a child, {}", "a photo of a woman")
    ),
}
"""`concept`: a pose, an action, a piece of clothing: what the captions put beside a subject."""
TAG_PROMPTS = {
    "character": ("1girl, {}, portrait", "1girl, {}, beach, full body", "1girl, {}, night, city", "1girl, portrait"),
    "object": ("{}, on table", "1girl, holding {}", "{}, outdoors", "1girl, portrait"),
    "style": ("1girl, portrait, {}", "house, hill, {}", "1boy, night, city, {}", "1girl, portrait"),
    "concept": ("1girl, {}", "1boy, {}, outdoors", "1girl, {}, night", "1girl, portrait"),
}
"""The same for bases that read tags."""
SHORT_PROMPTS = {
    "character": ("a photo of {}", "a photo of {}, on a beach", "a photo of {}, at night", "a photo of a lion"),
    "object": ("a photo of {}", "a photo of {}, on a beach", "a photo of {}, at night", "a photo of a car"),
    "style": ("a photo of a house, {}", "a photo of a lion, {}", "a photo of a car, {}", "a photo of a house"),
    "concept": ("a photo of a dog, {}", "a photo of a lion, {}", "a photo of a cat, {}", "a photo of a dog"),
}
"""The same for the embedded bases, of things that they draw."""


@dataclass(frozen=True)
class Answers:
    """What a config depends on."""

    base: str
    images: str
    """The folder of images, as the config names it."""
    output: str
    trigger: str = ""
    subject: str = "character"
    """One of `SUBJECTS`."""
    memory: float = 12.0
    """GiB of the card."""
    count: int = 0
    """Number of images."""
    resolution: int = 512
    kind: str = "sd1"
    """The family of the base: `sd1`, `sd2`, `sdxl`, `sd3`, `flux`."""
    prediction: str = "epsilon"
    timesteps: str = "uniform"
    """The timestep sampler of a base of flow matching."""
    tags: bool = False
    """Whether captions are lists of tags, as anime bases read them."""
    batch: int | None = None
    """Images in a step; None: by the memory alone (`usual_batch`)."""
    layerwise: bool = False
    """Whether the trigger becomes new tokens, trained first (pivotal tuning)."""

    @property
    def short_run(self) -> ShortRun | None:
        """What differs on an embedded base; None for others."""
        return SHORT_RUNS.get(self.base)

    @property
    def is_small_base(self) -> bool:
        """Whether the base is of SD 1.x or 2.x."""
        return self.kind in ("sd1", "sd2")

    @property
    def flows(self) -> bool:
        """Whether the base was trained by flow matching."""
        return self.prediction == "velocity"

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder is trained too."""
        if self.short_run is not None:
            affordable = bool(self.short_run.text_lr)
        else:
            affordable = self.memory >= LITTLE_MEMORY and self.is_small_base
        return SUBJECTS[self.subject].text_lr > 0 and affordable and not self.layerwise

    @property
    def captions_change(self) -> bool:
        """Whether captions differ from step to step, so that they cannot be cached and the text encoder stays."""
        return (self.tags and self.memory >= LITTLE_MEMORY) or self.layerwise

    @property
    def pure_noise(self) -> bool:
        """Whether the base was made with zero terminal SNR: published v-prediction models of SDXL are."""
        return self.kind == "sdxl" and self.prediction == "v_prediction"

    @property
    def images_per_step(self) -> int:
        """Images in a step."""
        return self.batch or usual_batch(self)


def recipe(answers: Answers, header: Sequence[str] = ()) -> str:
    """The config as text, with the reasons. `header`: lines of comment at its beginning."""
    subject = SUBJECTS[answers.subject]
    lines = [f"# {line}".rstrip() for line in header]
    lines += [""] if header else []
    lines += [
        f"base = {inline(answers.base)}",
        f"output = {inline(answers.output)}",
        f"trigger = {inline([answers.trigger] if answers.trigger else [])}",
    ]
    short_run = answers.short_run
    views = f"views_per_image = {subject.views}      # how often each image is seen"
    lines.append(views if short_run is None else f"steps = {short_run.steps}")
    if answers.pure_noise:
        lines += [
            "zero_terminal_snr = true    # v-prediction models of SDXL start at pure noise; false for one that does not"
        ]
    lines += data_lines(answers)
    lines += concept_lines(answers)
    rank = subject.rank if short_run is None or short_run.rank is None else short_run.rank
    lines += ["", "[adapter]", 'kind = "lora"', f"rank = {rank}       # alpha is the rank, so the scale is 1"]
    if short_run is not None and short_run.layers and answers.trains_text:
        lines.append(f"layers = {inline(short_run.layers)}      # other things change less than with all layers")
    lines += ["", "[optimizer]", 'kind = "adamw"', *rate_lines(answers)]
    lines += ["", "[lr_schedule]", 'kind = "cosine"', "warmup = 0.05"]
    lines += [*objective_lines(answers), *output_lines(answers)]
    return "\n".join(lines) + "\n"


def data_lines(answers: Answers) -> list[str]:
    """The table `data`."""
    lines = ["", "[data]", f"images = {inline(answers.images)}"]
    lines.append(f"resolution = {answers.resolution if answers.short_run is None else answers.short_run.resolution}")
    lines.append(f"batch_size = {answers.images_per_step}")
    transforms = []
    if answers.subject == "object":
        transforms.append('"flip"')
        lines.append("# flip: not for what has a left and a right side, or text on it")
    if answers.tags and answers.captions_change:
        transforms.append('{ kind = "shuffle", keep = 1 }')
        lines.append("# shuffle: tags in another order each time, behind the trigger; the text encoders stay in memory")
    if answers.layerwise and answers.trigger:
        new = new_tokens(answers)
        transforms.append(f'{{ kind = "replace", words = {{ {inline(answers.trigger)} = {inline(" ".join(new))} }} }}')
    if transforms:
        lines.append(f"transforms = [{', '.join(transforms)}]")
    if answers.count >= FEWEST_TO_HOLD_OUT and answers.short_run is None:
        lines.append("validation.split = 0.1     # held out, to see overfitting")
    return lines


def new_tokens(answers: Answers) -> list[str]:
    """The new tokens that stand for the trigger."""
    return [f"<{answers.trigger}1>", f"<{answers.trigger}2>"]


def concept_lines(answers: Answers) -> list[str]:
    """New tokens and their phase, for pivotal tuning."""
    if not (answers.layerwise and answers.trigger):
        return []
    first = "woman" if answers.subject == "character" else "object"
    return [
        "",
        "[[concepts]]               # what the trigger means, in two new tokens of the text encoder",
        f"words = {inline(new_tokens(answers))}",
        f"init = {inline(['<rand-0.013>', first])}",
        "lr = 1e-3",
        "",
        "[phases]                   # the tokens first, then the LoRA around them",
        "words = [0, 0.5]",
        "unet = [0.3, 1]",
    ]


def usual_batch(answers: Answers) -> int:
    """Images in a step, by the memory of the card."""
    if answers.short_run is not None:
        return answers.short_run.batch
    if answers.memory < LITTLE_MEMORY:
        return 1
    return 2 if answers.memory < 20 else 4


def rate_lines(answers: Answers) -> list[str]:
    """Learning rates."""
    if answers.short_run is not None:
        run = answers.short_run
        return [f"lr = {run.lr}", *([f"text_lr = {run.text_lr}"] if answers.trains_text else [])]
    if answers.trains_text:
        return ["lr = 1e-4", f"text_lr = {short(SUBJECTS[answers.subject].text_lr)}"]
    # the UNet must do alone what both do elsewhere; SDXL's is large enough at the lower rate
    return ["lr = 2e-4" if answers.is_small_base else "lr = 1e-4"]


def short(rate: float) -> str:
    """A rate as people write it: `5e-5`."""
    return f"{rate:g}".replace("e-0", "e-")


def objective_lines(answers: Answers) -> list[str]:
    """The weights over t."""
    if answers.flows:
        return ["", "[objective]", f"timesteps = {{ kind = {inline(answers.timesteps)} }}"]
    if answers.pure_noise:
        # min-SNR and debiased give pure noise no weight, or all of it
        return ["", "# no weighting: the loss of v-prediction also trains pure noise, which min-SNR leaves out"]
    weighting = answers.short_run.weighting if answers.short_run is not None else MIN_SNR
    return ["", "[objective]", f"weightings = [{weighting}]"]


def named(prompts: Sequence[str], name: str) -> list[str]:
    """Prompts with a name in their places. Without one the places are left out, and prompts that then say the same."""
    if name:
        return [prompt.format(name) for prompt in prompts]
    kept = [", ".join(part for part in prompt.split(", ") if part != "{}") for prompt in prompts]
    return list(dict.fromkeys(kept))


def output_lines(answers: Answers) -> list[str]:
    """The tables `preview` and `export`."""
    run = answers.short_run
    prompts = TAG_PROMPTS[answers.subject] if answers.tags else SUBJECTS[answers.subject].prompts
    if run is not None:
        prompts = SHORT_PROMPTS[answers.subject]
    name = " ".join(new_tokens(answers)) if answers.layerwise and answers.trigger else answers.trigger
    unnamed = "" if answers.tags else SUBJECTS[answers.subject].unnamed
    written = [f"  {inline(prompt)}," for prompt in named(prompts, name or unnamed)]
    if run is not None:
        often, guidance, dtype = f"every_steps = {run.every}", [f"cfg = {run.cfg}"], []
    else:
        often, guidance, dtype = "every_epochs = 10", [], ['dtype = "fp16"']
    lines = ["", "[preview]", often, *guidance, "prompts = [", *written, "]"]
    return [*lines, "", "[export]", *dtype, often, "keep = 5"]
