"""Write the recipes that `lorasmith new` would make for published bases: `python -m tools.recipes`.

A test compares them with what is there. The recipes of the tiny base (`garp.toml`, `kinds/`) and of several characters
are written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorasmith.api.first_config import complete
from lorasmith.api.recipe import SUBJECTS, Answers, short
from lorasmith.core.recipes import FOLDER
from lorasmith.families.flux.source import FluxSource
from lorasmith.families.sd3.source import SD3Source

SD1, SD2, SDXL = "v1-5-pruned-emaonly.safetensors", "v2-1_768-ema-pruned.safetensors", "sd_xl_base_1.0.safetensors"
NOT_MEASURED = "Evidence: not measured on this base."
LIKE_TINY = (
    "Evidence: not measured on this base. The same adapter, schedule and weighting on the tiny base: "
    "docs/measurements/quality.md."
)
IMAGES = "photos/mia"
COUNT = 20
"""Images that the recipes are made for."""


@dataclass(frozen=True)
class Recipe:
    """One file: what it is for, and the answers that it comes from."""

    name: str
    purpose: str
    answers: Answers
    evidence: str = NOT_MEASURED


def sd1(subject: str, memory: float = 12, trigger: str = "mia", layerwise: bool = False) -> Answers:
    """Stable Diffusion 1.5."""
    return Answers(SD1, IMAGES, "runs/mia", trigger, subject, memory, COUNT, layerwise=layerwise)


def sdxl(subject: str, memory: float, base: str = SDXL, prediction: str = "epsilon", tags: bool = False) -> Answers:
    """SDXL and what is made of it."""
    return Answers(
        base, IMAGES, "runs/mia", "mia", subject, memory, COUNT, 1024, kind="sdxl", prediction=prediction, tags=tags
    )


def flow(memory: float, kind: str) -> Answers:
    """A character on Flux.1 dev or SD 3.5 medium."""
    base, timesteps = {
        "flux": ("flux1-dev.safetensors", FluxSource.timesteps),
        "sd3": ("sd3.5_medium.safetensors", SD3Source.timesteps),
    }[kind]
    answers = Answers(base, IMAGES, "runs/mia", "mia", "character", memory, COUNT, 1024, kind=kind)
    return replace(answers, prediction="velocity", timesteps=timesteps)


CAPTIONS = "Each picture 01.png has its caption beside it in 01.txt, for example: a photo of mia, smiling, in a garden."
TAGS = "Captions are tags: mia, 1girl, smile, garden. The trigger comes first and stays there."
PARTS = "Parts that the file lacks lie beside it, or base_parts names them."
RECIPES = (
    Recipe(
        "sd15-character",
        f"A character from ten to thirty pictures, on Stable Diffusion 1.5. {CAPTIONS}",
        sd1("character"),
        LIKE_TINY,
    ),
    Recipe("sd15-object", "One object, such as a cup or a toy, on Stable Diffusion 1.5.", sd1("object"), LIKE_TINY),
    Recipe(
        "sd15-style",
        "The style of a painter or of a film, on Stable Diffusion 1.5: captions say what is shown, not how.",
        sd1("style"),
        LIKE_TINY,
    ),
    Recipe(
        "sd15-concept",
        "A pose, an action or a piece of clothing, on Stable Diffusion 1.5: captions name who is shown.",
        sd1("concept"),
        LIKE_TINY,
    ),
    Recipe("sd15-6gb", "A character on Stable Diffusion 1.5 with a card of 6 GB.", sd1("character", 6), LIKE_TINY),
    Recipe("sd15-8gb", "A character on Stable Diffusion 1.5 with a card of 8 GB.", sd1("character", 8), LIKE_TINY),
    Recipe("sd15-24gb", "A character on Stable Diffusion 1.5 with a card of 24 GB.", sd1("character", 24), LIKE_TINY),
    Recipe(
        "sd15-pivotal",
        "A character by new tokens and a LoRA (pivotal tuning), on Stable Diffusion 1.5. Captions keep the word mia.",
        sd1("character", layerwise=True),
        "Evidence: not measured on this base; new tokens on the tiny base: docs/measurements/new-tokens.md.",
    ),
    Recipe(
        "sd21-character",
        "A character on Stable Diffusion 2.1 at 768 px (v-prediction).",
        Answers(SD2, IMAGES, "runs/mia", "mia", "character", 12, COUNT, 768, kind="sd2", prediction="v_prediction"),
    ),
    Recipe("sdxl-character", "A character on SDXL with a card of 24 GB.", sdxl("character", 24)),
    Recipe("sdxl-style", "A style on SDXL with a card of 24 GB.", sdxl("style", 24)),
    Recipe("sdxl-12gb", "A character on SDXL with a card of 12 GB.", sdxl("character", 12)),
    Recipe("sdxl-8gb", "A character on SDXL with a card of 8 GB.", sdxl("character", 8)),
    Recipe(
        "sdxl-6gb", "A character on SDXL with a card of 6 GB: weights are copied from the host.", sdxl("character", 6)
    ),
    *(
        Recipe(f"flux-{gb}gb", f"A character on Flux.1 dev with a card of {gb} GB. {PARTS}", flow(gb, "flux"))
        for gb in (12, 16, 24)
    ),
    *(
        Recipe(f"sd35-{gb}gb", f"A character on SD 3.5 medium with a card of {gb} GB. {PARTS}", flow(gb, "sd3"))
        for gb in (12, 16)
    ),
    Recipe(
        "illustrious-character",
        f"A character on Illustrious XL with a card of 12 GB. {TAGS}",
        sdxl("character", 12, "Illustrious-XL-v1.0.safetensors", tags=True),
    ),
    Recipe(
        "noobai-character",
        f"A character on NoobAI XL, v-prediction with zero terminal SNR, with a card of 12 GB. {TAGS}",
        sdxl("character", 12, "NoobAI-XL-Vpred-v1.0.safetensors", "v_prediction", tags=True),
    ),
)


def text_of(recipe: Recipe) -> str:
    """The file's text."""
    answers = recipe.answers
    header = [
        *folded(recipe.purpose),
        f"    lorasmith train {recipe.name} base=FILE data.images=FOLDER",
        *folded(f"{rates(answers)} {SUBJECTS[answers.subject].views} views of each image. {recipe.evidence}"),
        *folded("What your machine needs, without training: lorasmith check CONFIG; measured by two steps: --measure."),
    ]
    made = complete(answers, header)
    return made.text.replace('output = "runs/mia"', f'output = "runs/{recipe.name}"')


def rates(answers: Answers) -> str:
    """The effective learning rates: the scale alpha / rank is 1."""
    unet = "1e-4" if answers.trains_text or not answers.is_small_base else "2e-4"
    denoiser = "transformer" if answers.flows else "UNet"
    text = (
        f"; text encoder {short(SUBJECTS[answers.subject].text_lr)}"
        if answers.trains_text
        else "; text encoder not trained"
    )
    return f"Effective lr: {denoiser} {unet} = {unet} (lr) x 1 (alpha / rank){text}."


def folded(text: str, width: int = 116) -> list[str]:
    """Lines of at most `width` characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    for recipe in RECIPES:
        (FOLDER / f"{recipe.name}.toml").write_text(text_of(recipe), encoding="utf-8")


if __name__ == "__main__":
    main()
