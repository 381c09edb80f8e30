"""docs/coming-from.md as a reader follows it: its files are written, and its commands run in their order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from answers import ROOT, Program

PAGE = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    (lorasmith [^\n]+)$", PAGE.replace("\\\n", " "), re.MULTILINE)


def photos_of_mia(folder: Path) -> None:
    """Eight pictures of the small character that comes with the package, under another name."""
    folder.mkdir(parents=True)
    for picture in sorted((ROOT / "src/lorasmith/assets/garp").glob("*.png"))[:8]:
        shutil.copy(picture, folder / f"mia-{picture.name}")
        caption = picture.with_suffix(".txt").read_text(encoding="utf-8").replace("garp", "mia")
        (folder / f"mia-{picture.stem}.txt").write_text(caption, encoding="utf-8")


def test_the_page_has_a_config_and_a_command_for_each_of_the_three_ways() -> None:
    assert [name for name, _ in FILES] == ["kohya.toml", "dataset.toml", "EDLoRA_mia.yml", "mia.json", "prompts.txt"]
    started = [command for command in COMMANDS if command.startswith("lorasmith as accelerate launch")]
    assert [re.search(r"train_\w+\.py", command).group() for command in started] == [  # type: ignore[union-attr]
        "train_network.py",
        "train_dreambooth_lora.py",
        "train_edlora.py",
    ]


@pytest.mark.slow
def test_every_command_of_the_page_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Program
) -> None:
    monkeypatch.chdir(tmp_path)
    photos_of_mia(tmp_path / "photos" / "mia")
    for name, text in FILES:
        (tmp_path / name).write_text(text, encoding="utf-8")
    for command in COMMANDS:
        answer = here(*shlex.split(command)[1:])
        assert answer.code == 0, f"{command}\n{answer.err}"
        assert "Traceback" not in answer.err

    # every file that the page names is there
    for file in (
        "from-kohya/mia-000001.safetensors",
        "from-kohya/mia/report.html",
        "from-diffusers/pytorch_lora_weights.safetensors",
        "from-diffusers/from-diffusers.safetensors",
        "experiments/EDLoRA_mia/models/edlora_model-latest.pth",
        "experiments/EDLoRA_mia/EDLoRA_mia.exact.safetensors",
        "experiments/EDLoRA_mia/embeddings/mia1.safetensors",
    ):
        assert (tmp_path / file).is_file(), file
    assert len(list((tmp_path / "pictures").glob("*/*.png"))) >= 3
