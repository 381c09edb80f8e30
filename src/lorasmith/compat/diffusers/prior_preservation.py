"""The subsets of a DreamBooth run: instance images, and with prior preservation class images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorasmith.compat.diffusers.class_images import class_image_job
from lorasmith.compat.diffusers.shared import Table, Values
from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.config import NO_CAPTION_FILES

DRAWN: Table = {"steps": 25, "cfg": 7.5, "sampler": "dpm++_2m"}
"""How the originals draw class images with Stable Diffusion."""


class DreamboothSubsets:
    """The subsets of a config, the length of an epoch, and the work that is needed before training."""

    def __init__(
        self,
        values: Values,
        instances: list[Table],
        classes: list[tuple[str | None, str | None]],
        image_count: int | None,
        sampling: Table = DRAWN,
    ) -> None:
        """`instances`: our subsets of instance images, of which there are `image_count`, or None if that is not known
        yet; `classes`: class folder and class prompt of each concept; `sampling`: sampler, steps and guidance of class
        images."""
        self.tables = list(instances)
        self.jobs: list[Callable[[Progress | None], None]] = []
        """Functions that draw missing class images."""
        # An epoch of the original uses each instance image once for each repeat.
        repeats = instances[0].get("repeats", 1)
        self.epoch_images = None if image_count is None else image_count * repeats
        """How many images an epoch of the original has, if it is known."""
        if not values["with_prior_preservation"]:
            return
        for folder, prompt in classes:
            self._add_class(values, folder, prompt, sampling)

        # The original has as many class images as instance images in each batch, so both are used equally often.
        if self.epoch_images is None:
            raise LorasmithError(
                "--with_prior_preservation needs the number of instance images, which is not known before the download "
                "of the data set; download it first, and name its folder in --dataset_name"
            )
        class_count = values["num_class_images"] * len(classes)
        factor = max(1, round(class_count / max(1, self.epoch_images)))
        for subset in instances:
            subset["repeats"] = subset.get("repeats", 1) * factor
        self.epoch_images = max(self.epoch_images, class_count)

    def _add_class(self, values: Values, folder: str | None, prompt: str | None, sampling: Table) -> None:
        """Add the class images of one concept."""
        if not folder or not prompt:
            raise LorasmithError("--with_prior_preservation requires --class_data_dir and --class_prompt")
        # Drawn as by the original's pipeline, at the size of training.
        table: Table = {
            "seed": values["seed"] or 0,
            "batch_size": values["sample_batch_size"],
            **sampling,
            "width": values["resolution"],
            "height": values["resolution"],
        }
        from lorasmith.sampling.settings import SampleSettings

        settings = validate(SampleSettings, table, "the options")
        base = values["pretrained_model_name_or_path"]
        self.jobs.append(class_image_job(base, prompt, Path(folder), values["num_class_images"], settings))
        self.tables.append(
            {
                "images": folder,
                "caption": prompt,
                "caption_extension": NO_CAPTION_FILES,
                "loss_weight": values["prior_loss_weight"],
            }
        )

    def prepare(self, progress: Progress | None) -> None:
        """Draw the class images that are missing."""
        for job in self.jobs:
            job(progress)


def dreambooth_batch_size(values: Values) -> int:
    """With prior preservation, the original adds as many class images to each batch."""
    return values["train_batch_size"] * (2 if values["with_prior_preservation"] else 1)
