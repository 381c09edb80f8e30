"""The files of Mix-of-Show's training, where its other scripts and its users look for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.formats.mixofshow import SUFFIX, MixOfShow
from lorasmith.imaging.visualization_folder import DrawnPicture, strength_name, write_pass
from lorasmith.training.hooks.base import Hook
from lorasmith.training.output import export

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class MixOfShowFiles(Hook):
    """Writes `models/edlora_model-500.pth` after step 500 and `models/edlora_model-latest.pth` at the end, a copy of
    the options, and the previews in the folder `visualization`, all below the run's folder."""

    kind: Literal["mixofshow"] = "mixofshow"
    stem: Literal["edlora_model", "lora_model"] = "edlora_model"
    """The part of the file names before the step."""
    options: Path | None = None
    """A file of options, which is copied into the run's folder at the start."""
    pictures: str = "PromptDataset"
    """The folder of the previews below `visualization`."""
    grids: bool = True
    """Also write a grid of the previews of each strength."""

    @property
    def format(self) -> MixOfShow:
        """The format of the files: with a vector for each layer, or a shared one."""
        return MixOfShow() if self.stem == "edlora_model" else MixOfShow(layers=1)

    def open(self, run: Run) -> None:
        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            if event == "preview":
                self._write_pictures(run, step, fields)

        run.events.listen(on_event)

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if Mix-of-Show's files cannot hold what is trained."""
        if run.token_trainer is None and not len(run.adapters):
            raise LorasmithError("hooks.mixofshow: this run trains nothing that such a file could hold")
        # What the file cannot hold is found now and not after the training.
        export.encode(run, self.format)
        export.encode_token_embeddings(run, self.format)

        # A resumed run has the copy, and the file may have been changed since.
        if self.options is not None and self.options.is_file() and not run.resumed:
            with atomic_path(run.folder / self.options.name) as temporary:
                shutil.copyfile(self.options, temporary)
        super().start(run)

    def act(self, run: Run) -> None:
        step = run.state.step
        is_last = step >= run.length.steps
        if not is_last or self.due_by_step(run):
            self._write_model(run, str(step))
        if is_last:
            self._write_model(run, "latest")

    def _write_model(self, run: Run, label: str) -> None:
        path = run.folder / "models" / f"{self.stem}-{label}{SUFFIX}"
        export.write(run, path, self.format, "fp32")
        run.events.write("export", run.state.step, file=run.relative_path(path), row="mixofshow")

    def _write_pictures(self, run: Run, step: int, fields: dict[str, Any]) -> None:
        """The previews of a step under their names in Mix-of-Show. `fields`: those of the event."""
        preview = run.config.preview
        assert preview is not None
        files = [run.folder / file for file in fields["images"]]
        prompts = [prompt for prompt in fields["prompts"] for _ in range(preview.count)]
        label = "latest" if step >= run.length.steps else str(step)
        # The files of each strength follow each other; a run without a LoRA has those of one strength.
        for index in range(len(files) // len(prompts)):
            strength = preview.strengths[index]
            drawn = [
                DrawnPicture(file, prompt, position % preview.count + 1)
                for position, (file, prompt) in enumerate(
                    zip(files[index * len(prompts) : (index + 1) * len(prompts)], prompts, strict=True)
                )
            ]
            factor = strength_name(strength[0] if isinstance(strength, tuple) else strength)
            write_pass(
                run.folder / "visualization" / self.pictures,
                f"Iters-{label}_Alpha-{factor}",
                drawn,
                steps=preview.steps,
                cfg=preview.cfg or 7.0,
                with_grid=self.grids,
            )
