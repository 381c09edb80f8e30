"""The examples in the docstrings of what `lorasmith` exports, run where docs/api.md says that they run."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

import lorasmith
from tools.api_page import CONFIG

GARP = Path(lorasmith.__file__).parent / "assets" / "garp"
SLOW = {"fuse", "refit", "sweep"}
"""What draws pictures, fits all layers, or starts processes."""
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in lorasmith.__all__]
LAYERWISE = (
    'concepts=[{words=["<mia1>"], init=["robot"], layerwise=true}]',
    'data.transforms=[{kind="replace", words={mia="<mia1>"}}]',
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a config, and LoRAs that were trained with it."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos" / "mia").mkdir(parents=True)
    for picture in sorted(GARP.glob("*.png"))[:4]:
        shutil.copy(picture, folder / "photos" / "mia" / f"mia-{picture.name}")
        caption = picture.with_suffix(".txt").read_text(encoding="utf-8").replace("garp", "mia")
        (folder / "photos" / "mia" / f"mia-{picture.stem}.txt").write_text(caption, encoding="utf-8")
    (folder / "mia.toml").write_text(CONFIG, encoding="utf-8")
    trained = train_in(folder, "made/mia")
    # What the examples show of it does not depend on what the second LoRA has learned.
    for name in ("mia", "rex"):
        shutil.copy(trained / "mia.safetensors", folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def layerwise(prepared: Path) -> None:
    """The file with a layer-wise token, which takes a training of its own."""
    trained = train_in(prepared, "made/words", *LAYERWISE)
    shutil.copy(trained / "words.exact.safetensors", prepared / "mia.exact.safetensors")


def train_in(folder: Path, output: str, *overrides: str) -> Path:
    """The folder of a run that was started in `folder`, as its reader would."""
    with pytest.MonkeyPatch.context() as context:
        context.chdir(folder)
        result = lorasmith.train("mia.toml", overrides=overrides, output=output, accept_remarks=True)
    return folder / result.folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_gives_what_it_says(
    name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if name == "refit":
        request.getfixturevalue("layerwise")
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("made"))
    monkeypatch.chdir(tmp_path)
    # Only the docstring of the name itself: methods and other functions of the module have no say here.
    text = getattr(lorasmith, name).__doc__ or ""
    example = doctest.DocTestParser().get_doctest(text, {"lorasmith": lorasmith}, name, None, None)
    assert example.examples, f"lorasmith.{name} has no example"
    report: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed
    assert not failed, "".join(report)
