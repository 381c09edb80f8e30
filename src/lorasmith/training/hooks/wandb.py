"""The run's numbers and pictures to Weights & Biases."""

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


def package() -> Any:
    """The package. Raises LorasmithError if it is missing."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise LorasmithError(
            "hooks: the package wandb is not installed; install it with: pip install 'lorasmith[wandb]'"
        ) from None


class Wandb(Hook):
    """Sends losses, rates, validation and previews as they come. The key is taken from WANDB_API_KEY or `wandb login`.

    A run that is resumed goes on there, too. What cannot be sent is a note, and training goes on.
    """

    kind: Literal["wandb"] = "wandb"
    project: str = "lorasmith"
    run_name: str | None = None
    """Default: the run's `name`."""
    send_config: bool = False
    """Also send the settings, without the folders of this machine."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `wandb.init`, such as `entity`, `tags`, `mode`."""
    _run: Any = PrivateAttr(None)
    _failed: bool = PrivateAttr(False)

    def ready(self) -> None:
        """Raises LorasmithError if the package is missing."""
        package()

    def open(self, run: Run) -> None:
        """Raises LorasmithError if no run can be opened: better now than after a night."""
        from lorasmith.training.output.export import public

        file = run.folder / FILE
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and run.resumed else {}
        settings = {"project": self.project, "name": self.run_name or run.config.file_name, "dir": str(run.folder)}
        settings |= {"config": json.loads(json.dumps(public(run.config.model_dump(mode="python")), default=str))}
        if not self.send_config:
            settings.pop("config")
        try:
            self._run = package().init(**{**settings, **known, **self.options})
            self._run.define_metric("*", step_metric="step")  # numbers may come later than pictures of a later step
        except Exception as error:
            raise LorasmithError(
                f"hooks: wandb cannot start ({error}); log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None
        write_text(file, json.dumps({"id": self._run.id, "resume": "allow"}))
        self._failed = False
        run.events.listen(lambda event, step, fields: self._tell(run, event, step, fields))

    def act(self, run: Run) -> None:
        """Everything is sent as events come."""

    def close(self, run: Run) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _tell(self, run: Run, event: str, step: int, fields: dict[str, Any]) -> None:
        values: dict[str, Any] = dict(scalars(event, fields))
        try:
            if event == "preview":
                values |= self._pictures(run, fields)
            if values and self._run is not None:
                self._run.log({**values, "step": step})
        except Exception as error:
            if not self._failed:
                run.progress.say(f"wandb: step {step} is not sent: {error}")
            self._failed = True

    def _pictures(self, run: Run, fields: dict[str, Any]) -> dict[str, Any]:
        """Each picture with its prompt; at several strengths or seeds, the grids."""
        image = package().Image
        if len(fields["images"]) != len(fields["prompts"]):
            grids = enumerate(fields["grids"])
            return {f"samples_{i}": image(str(run.folder / file)) for i, file in grids}
        shown = zip(fields["images"], fields["prompts"], strict=True)
        return {f"sample_{i}": image(str(run.folder / file), caption=text) for i, (file, text) in enumerate(shown)}
