"""Send the numbers and pictures of a run to Weights & Biases."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.hooks.base import Hook
from lorasmith.training.output.events import scalars

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FILE = "wandb.json"
"""File in the run's folder that holds the id of the W&B run."""


def import_wandb() -> Any:
    """The package `wandb`. Raises LorasmithError if it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise LorasmithError(
            "hooks: the package wandb is not installed; install it with: pip install 'lorasmith[wandb]'"
        ) from None


class Wandb(Hook):
    """Sends losses, learning rates, validation and previews as they are logged. The key comes from WANDB_API_KEY or
    `wandb login`.

    A resumed run continues the same W&B run. If something cannot be sent, this is reported and training continues.
    """

    kind: Literal["wandb"] = "wandb"
    project: str = "lorasmith"
    run_name: str | None = None
    """Default: the run's `name`."""
    send_config: bool = False
    """Also send the settings, without the folders of this machine. (The package wandb itself records the host, the
    working folder and the command line, unless `options = {settings = {x_disable_meta = true}}`.)"""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `wandb.init`, such as `entity`, `tags`, `mode`."""
    _run: Any = PrivateAttr(None)
    _failed: bool = PrivateAttr(False)

    def ready(self) -> None:
        """Raises LorasmithError if the package is not installed."""
        import_wandb()

    def open(self, run: Run) -> None:
        """Raises LorasmithError if no W&B run can be opened, so that this is known before hours of training."""
        from lorasmith.training.output.export import config_without_folders

        settings: dict[str, Any] = {
            "project": self.project,
            "name": self.run_name or run.name,
            "dir": str(run.folder),
        }
        if self.send_config:
            settings["config"] = json.loads(json.dumps(config_without_folders(run), default=str))
        # a resumed run continues the W&B run whose id was saved when it began
        file = run.folder / FILE
        if run.resumed and file.is_file():
            settings.update(json.loads(file.read_text(encoding="utf-8")))
        # last, so that the user can override everything
        settings.update(self.options)

        try:
            self._run = import_wandb().init(**settings)
            # with a step metric of our own, losses may be logged after pictures of a later step
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            raise LorasmithError(
                f"hooks: wandb cannot start ({error}); log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None
        write_text(file, json.dumps({"id": self._run.id, "resume": "allow"}))
        self._failed = False

        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            self._send(run, event, step, fields)

        run.events.listen(on_event)

    def act(self, run: Run) -> None:
        """Nothing to do: everything is sent when its event is written."""

    def close(self, run: Run) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _send(self, run: Run, event: str, step: int, fields: dict[str, Any]) -> None:
        values: dict[str, Any] = dict(scalars(event, fields))
        try:
            if event == "preview":
                values.update(self._pictures(run, fields))
            if values and self._run is not None:
                self._run.log({**values, "step": step})
        except Exception as error:
            # only the first failure is reported, since without a network every step would fail
            if not self._failed:
                run.progress.say(f"wandb: step {step} is not sent: {error}")
            self._failed = True

    def _pictures(self, run: Run, preview: dict[str, Any]) -> dict[str, Any]:
        """The pictures of a preview with their prompts. With several strengths or seeds, the grids instead."""
        image = import_wandb().Image
        files = preview["images"]
        prompts = preview["prompts"]
        pictures: dict[str, Any] = {}
        if len(files) != len(prompts):
            for i, grid in enumerate(preview["grids"]):
                pictures[f"samples_{i}"] = image(str(run.folder / grid))
            return pictures
        for i, (file, prompt) in enumerate(zip(files, prompts, strict=True)):
            pictures[f"sample_{i}"] = image(str(run.folder / file), caption=prompt)
        return pictures
