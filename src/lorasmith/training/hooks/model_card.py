"""A page about the trained files, as the Hugging Face Hub shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lorasmith.core.store import write_text
from lorasmith.training.hooks.base import Hook
from lorasmith.training.output.model_card import MARK, CardFacts, model_card

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class ModelCard(Hook):
    """Writes `README.md` into the run's folder at the end, with the newest previews beside it as `image_0.png` and so
    on. The hook `upload` uploads them. A page that somebody wrote or changed by hand is kept."""

    kind: Literal["model_card"] = "model_card"
    repo: str = ""
    """Repository of the files, for the example in the page. Default: the name of the run."""
    prompt: str = ""
    """The prompt that the images were trained with, if they had one."""
    usage: tuple[str, ...] = ()
    """Lines of Python that load the files of `repo` into the diffusers pipeline `pipe`."""

    def act(self, run: Run) -> None:
        path = run.folder / "README.md"
        if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            run.progress.say(f"{path} is kept, since it was not written by lorasmith or was changed")
        else:
            pictures = self._write_pictures(run)
            facts = CardFacts(self.repo, self.prompt, self.usage, list(pictures), list(pictures.values()))
            write_text(path, model_card(run, facts))
        run.events.write("card", run.state.step, file=run.relative_path(path))

    def _write_pictures(self, run: Run) -> dict[str, str]:
        """The newest previews beside the page; returns the prompt of each by file name."""
        from PIL import Image

        from lorasmith.imaging.png import save_image

        drawn = run.events.of("preview")
        newest: dict[str, Any] = drawn[-1] if drawn else {}
        files = [run.folder / str(file) for file in newest.get("images", [])]
        prompts = [str(prompt) for prompt in newest.get("prompts", [])]
        preview = run.config.preview
        count = 1 if preview is None else preview.count
        # The pictures of each strength follow each other, and of these those of each prompt.
        prompts = [prompt for prompt in prompts for _ in range(count)]

        prompt_of: dict[str, str] = {}
        for index, file in enumerate(files):
            if not file.is_file():
                continue
            # Only the pixels: previews hold the whole request, which the page does not need.
            picture = run.folder / f"image_{index}.png"
            with Image.open(file) as image:
                save_image(Image.frombytes("RGB", image.size, image.convert("RGB").tobytes()), picture)
            prompt_of[picture.name] = prompts[index % len(prompts)] if prompts else ""
            run.events.write("card", run.state.step, file=run.relative_path(picture))
        return prompt_of
