"""Remarks on the data of a run: found for `check`, and printed in short before a training."""

from __future__ import annotations

from collections.abc import Sequence

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.config import DataConfig
from lorasmith.data.dataset import Dataset
from lorasmith.data.lint import lint
from lorasmith.data.remarks import SEVERITIES, Remark, count_of
from lorasmith.training.config import TrainConfig
from lorasmith.training.setup.caption_reader import TokenReader

LINES_SHOWN = 4
"""How many remarks a training prints; `check` prints all."""


def build_dataset(config: TrainConfig, data: DataConfig | None = None) -> Dataset:
    """The images of a run, of which those without a caption get the config's default caption. `data`: other settings of
    the data. Raises ConfigError with every problem of every file."""
    return Dataset.build(
        data or config.data,
        seed=config.seed,
        default_caption=config.default_caption,
        conditions=tuple(condition.input for condition in config.conditions),
    )


def find_remarks(config: TrainConfig, dataset: Dataset, *, near_duplicates: bool = True) -> list[Remark]:
    """Everything suspicious about the data, as `lint` finds it. What the model reads of captions is found if the base
    is; that it is not found is an error of its own."""
    try:
        return lint(dataset, config.trigger, TokenReader(config), near_duplicates=near_duplicates)
    except LorasmithError:
        return lint(dataset, config.trigger, near_duplicates=near_duplicates)


def report_remarks(remarks: Sequence[Remark], progress: Progress, *, accept: bool) -> None:
    """Print the most important remarks in a few lines.

    Raises LorasmithError if some are serious, unless `accept` is set: it is cheaper to read them now than to train
    something that was not meant.
    """
    serious = [remark for remark in remarks if remark.severity == "serious"]
    if serious and not accept:
        what = "is a serious remark" if len(serious) == 1 else f"are {len(serious):,} serious remarks"
        lines = "\n".join(f"  {line}" for line in summary_lines(serious))
        raise LorasmithError(
            f"there {what} on the data:\n{lines}\n"
            f"Nothing was trained. Correct the data, or train all the same with --yes. "
            f"lorasmith check shows all {count_of(len(remarks), 'remark')}."
        )
    if not remarks:
        return
    progress.say(f"{count_of(len(remarks), 'remark')} on the data; lorasmith check shows them:")
    lines = summary_lines(remarks)
    for line in lines[:LINES_SHOWN]:
        progress.say(f"  {line}")


def summary_lines(remarks: Sequence[Remark]) -> list[str]:
    """One line for each kind of remark, the most serious first: the first remark, and how many others are like it."""
    groups: dict[tuple[int, str], list[Remark]] = {}
    for remark in remarks:
        groups.setdefault((SEVERITIES.index(remark.severity), remark.kind), []).append(remark)
    lines: list[str] = []
    for (_, _), group in sorted(groups.items(), key=lambda item: item[0][0]):
        more = f" (and {len(group) - 1:,} more like this)" if len(group) > 1 else ""
        lines.append(f"{group[0].path}: {group[0].text}{more}")
    return lines
