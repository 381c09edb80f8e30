"""The prompts of an evaluation, in which a placeholder stands for the concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.package import assets
from lorasmith.core.text_files import read_text
from lorasmith.evaluation.settings import EvaluateSettings

PLACEHOLDER = "<TOK>"
BUILT_IN_SETS = assets() / "evaluate"


def load_prompts(source: str | Path | Sequence[str]) -> list[str]:
    """The prompts of a built-in set (given by name), of a file (one on each line; `#` starts a comment), or of a list.

    Repeated prompts are left out. Raises LorasmithError if there is no such set or file, if it is empty, or if no
    prompt has the placeholder.
    """
    if isinstance(source, str | Path):
        path = _find_file(source)
        place = str(path)
        lines = [line.strip() for line in read_text(path).splitlines()]
        prompts = [line for line in lines if line and not line.startswith("#")]
    else:
        place = "the prompts"
        prompts = list(source)
    # a repeated prompt would count twice in the means
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        raise LorasmithError(f"{place}: there is no prompt in it")
    if not any(PLACEHOLDER in prompt for prompt in prompts):
        raise LorasmithError(
            f"{place}: {PLACEHOLDER} is in none of its prompts, for example not in "
            f'"{prompts[0]}"; write it in place of the concept'
        )
    return prompts


def _find_file(source: str | Path) -> Path:
    """The file of a built-in set, or of a path."""
    built_in = BUILT_IN_SETS / f"{source}.txt"
    if built_in.is_file():
        return built_in
    if Path(source).is_file():
        return Path(source)
    names = sorted(file.stem for file in BUILT_IN_SETS.glob("*.txt"))
    message = f"--prompts {source}: there is no such file; built-in sets: {', '.join(names)}"
    hint = did_you_mean(str(source), names)
    raise LorasmithError(f"{message}; {hint}" if hint else message)


def fill_placeholder(prompt: str, word: str) -> str:
    """The prompt with a word in place of the placeholder."""
    return prompt.replace(PLACEHOLDER, word)


def reference_text(prompt: str, settings: EvaluateSettings) -> str:
    """The text that a picture of this prompt is compared with: the class word in place of the placeholder and of the
    trigger, which the scorer does not know."""
    if settings.trigger and settings.class_word:
        # only whole words: a trigger "mia" is not replaced in "miami"
        trigger = rf"(?<!\w){re.escape(settings.trigger)}(?!\w)"
        prompt = re.sub(trigger, lambda _: settings.class_word, prompt)
    return settings.prefix + fill_placeholder(prompt, settings.class_word)
