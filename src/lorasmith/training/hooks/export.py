"""Exports while training and at the end: LoRA files for user interfaces and other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.base import Format
from lorasmith.formats.kohya import Kohya
from lorasmith.formats.privacy import Level
from lorasmith.training.hooks.numbered_files import NumberedFiles

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Exports(NumberedFiles):
    """Writes `name-000100.safetensors` after step 100, and `name.safetensors` at the end."""

    kind: Literal["export"] = "export"
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Number format in the file. fp16 halves the size of the file; fp32 is exact."""
    metadata: Level = "public"
    """What the metadata of the files contain. `public`: settings, name, trigger words and hashes, but no names of image
    folders, captions, tags, paths and prompts. `full`: these too, for your own files and for user interfaces that list
    the tags of the captions. `none`: what programs need to load the file. `minimal`: that and the model spec."""
    format: Format = Field(default_factory=Kohya)
    """Layout of the file; `kohya` is what user interfaces read."""
    container: Literal["safetensors", "pt", "ckpt"] = "safetensors"
    """Suffix of the file. `pt` and `ckpt` hold the tensors alone, written by `torch.save`, without metadata; at the end
    a `.safetensors` file is also written into the run's folder."""
    also: tuple[Format, ...] = ()
    """Further layouts in which the final file is written as well, as `name.peft.safetensors`."""
    model: Literal["layout", "single_file"] | None = None
    """At the end, also write the base model with the trained change merged into it: in the `layout` of the base (the
    folder `name.model`, or the file `name.model.safetensors`), or as `single_file` in the original layout (SD 1.x)."""

    @field_validator("format")
    @classmethod
    def _safetensors(cls, form: Format) -> Format:
        if form.suffix != ".safetensors":
            raise ValueError(f"its files end in {form.suffix}; write them as further ones: also = [{{kind = ...}}]")
        return form

    def file(self, run: Run) -> Path:
        """The final file of the run. If only new tokens are trained, this is the file with their embeddings."""
        name = run.name
        if len(run.adapters) == 0:
            return exact_file(run, name)
        return self.output_folder(run) / f"{name}.{self.container}"

    def write_best(self, run: Run, why: Mapping[str, str]) -> Path:
        """Write the present weights as the best ones of the run, in the format of the final file, as
        `name-best.safetensors`. `why`: metadata that say why they are the best."""
        from lorasmith.training.output import export

        name = best_name(run.name)
        path = exact_file(run, name)
        if run.token_trainer is not None:
            export.write_exact(run, path, why)
        if len(run.adapters):
            path = export.write(run, self.output_folder(run) / f"{name}.safetensors", self.format, self.dtype, why)
            if len(run.conditions):
                export.write_conditions(run, path)
        return path

    def claim(self, name: str, overwrite: bool) -> None:
        """Raises LorasmithError if `folder` is given and holds a file of another run where the final file of this run
        would be written."""
        if self.folder is None or overwrite:
            return
        for path in (self.folder / f"{name}.{self.container}", self.folder / f"{best_name(name)}.safetensors"):
            if path.exists():
                raise LorasmithError(
                    f"export.folder: {path} exists already; choose another name or folder, or give --overwrite"
                )

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if the adapter cannot be written in the chosen layouts."""
        from lorasmith.training.output import export
        from lorasmith.training.output.full_model import check_layout, keeps_vae

        # encoding needs no trained weights, so errors of a layout appear now instead of after hours of training
        if len(run.adapters):
            for form in (self.format, *self.also):
                export.encode(run, form)
                export.encode_token_embeddings(run, form)
        if self.model is not None:
            check_layout(run.config.base, self.model, run.config.vae)
            if run.config.vae and keeps_vae(run.config.base):
                run.progress.say(
                    "export.model: the base model is a single file, so the model that is written has the VAE of the "
                    "base model, not the one of `vae`"
                )
        super().start(run)

    def act(self, run: Run) -> None:
        for name, series in self.file_names(run).items():
            self._write_files(run, name, series)
        if run.state.step >= run.length.steps:
            self._write_final_files(run, run.name)

    def _write_files(self, run: Run, name: str, series: str = "") -> None:
        """Write the file of the adapter and, if there are new tokens, the file that holds them in float32."""
        from lorasmith.training.output import export

        if run.token_trainer is not None:
            path = export.write_exact(run, exact_file(run, name))
            self.write_event(run, "export", path, f"{series} exact" if series else "")
        if len(run.adapters):
            path = self.output_folder(run) / f"{name}.{self.container}"
            export.write(run, path, self.format, self.dtype)
            if len(run.conditions):
                conditions = export.write_conditions(run, path)
                self.write_event(run, "export", conditions, f"{series} conditions" if series else "")
            self.write_event(run, "export", path, series)

    def _write_final_files(self, run: Run, name: str) -> None:
        """Write all files of a finished run."""
        from lorasmith.formats.token_embeddings import averaging_warning, vocabulary_embeddings
        from lorasmith.training.output import export

        self._write_files(run, name)
        # user interfaces read each new token from a file of its own, with one embedding for all layers
        if run.token_trainer is not None:
            for path in export.write_token_embeddings(run, run.folder / "embeddings"):
                self.write_event(run, "export", path)
            warning = averaging_warning(vocabulary_embeddings(run.token_trainer.vocabulary))
            if warning:
                run.progress.say(warning)
        if len(run.adapters) == 0:
            return

        # a pickle has no metadata and cannot be merged into the base, so a .safetensors file is written as well
        path = self.file(run)
        if self.container != "safetensors":
            path = export.write(run, run.folder / f"{name}.safetensors", self.format, self.dtype)
            self.write_event(run, "export", path)

        for form in self.also:
            kind = form.model_dump()["kind"]
            other_path = run.folder / f"{name}.{kind}{form.suffix}"
            export.write(run, other_path, form, self.dtype)
            self.write_event(run, "export", other_path)

        if self.model is not None:
            from lorasmith.files.lora import LoraInput
            from lorasmith.training.output.full_model import write_full_model

            # LoRAs of `merge` were part of the base model during training
            changes = [*map(LoraInput.parse, run.config.merge), LoraInput(path)]
            stem = run.folder / f"{name}.model"
            model = write_full_model(run.config.base, changes, stem, self.model, run.config.vae)
            self.write_event(run, "export", model)


def best_name(name: str) -> str:
    """The name, without suffix, of the file with the best weights of a run."""
    return f"{name}-best"


def exact_file(run: Run, name: str) -> Path:
    """The file that holds adapter and new tokens in float32, in our own layout. It is always in the run's folder."""
    return run.folder / f"{name}.exact.safetensors"
