"""Build the wheel and the source archive, and use the wheel as somebody does who has nothing else.

    python -m tools.check_package [--folder build/package]

The wheel is installed into a new virtual environment, and commands are run in an empty folder with an empty home, where
the checkout cannot be found. Ends with the first thing that fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IN_THE_WHEEL = (
    "lorasmith/assets/comfyui/nodes.py",
    "lorasmith/assets/comfyui/README.md",
    "lorasmith/assets/recipes/garp-flow.toml",
    "lorasmith/assets/recipes/garp.toml",
    "lorasmith/assets/recipes/kinds/dora.toml",
    "lorasmith/assets/tiny-flow/LICENSE",
    "lorasmith/assets/tiny-flow/tokenizer_2/vocab.json",
    "lorasmith/assets/tiny-flow/transformer/diffusion_pytorch_model.safetensors",
    "lorasmith/assets/tiny-sd/LICENSE",
    "lorasmith/py.typed",
    "lorasmith/studio/static/index.html",
)
IN_THE_SOURCES = (
    "Makefile",
    "constraints.txt",
    "docs/tutorial.md",
    "README.md",
    "tests/conftest.py",
)
MAX_WHEEL_BYTES = 60 << 20
DEMO_STEPS = 4
"""Steps of the demo: enough to train, export and draw."""


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the source archive, built from the files that git tracks and checked by twine."""
    checkout = folder / "checkout"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in tracked.split("\0"):
        if name and (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    dist = folder / "dist"
    run(sys.executable, "-m", "build", "--outdir", dist, checkout)
    (wheel,), (sources,) = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sources)
    shutil.rmtree(checkout)
    return wheel, sources


def check_contents(wheel: Path, sources: Path) -> None:
    """What must be in the archives is there; the wheel is small, and holds the package alone."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = [name for name in IN_THE_WHEEL if name not in names]
    foreign = [name for name in names if not name.startswith("lorasmith")]
    assert not missing, f"not in the wheel: {missing}"
    assert not foreign, f"in the wheel, but not of the package: {foreign[:5]}"
    assert wheel.stat().st_size < MAX_WHEEL_BYTES, f"the wheel has {wheel.stat().st_size} bytes"
    with tarfile.open(sources) as archive:
        in_sources = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_THE_SOURCES if name not in in_sources]
    assert not missing, f"not in the source archive: {missing}"


def walk(wheel: Path, folder: Path) -> None:
    """Install the wheel, and run the first commands of a new user."""
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", environment)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    here = folder / "work"
    home = folder / "home"
    here.mkdir()
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LORASMITH_CACHE")}
    variables |= {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def lorasmith(*arguments: str | Path) -> str:
        return run(programs / "lorasmith", *arguments, cwd=here, variables=variables)

    place = run(programs / "python", "-c", "import lorasmith; print(lorasmith.__file__)", cwd=here, variables=variables)
    assert str(environment) in place, f"the package was imported from {place}"
    lorasmith("--version")
    lorasmith("--help")
    lorasmith("demo", "--steps", str(DEMO_STEPS), "--output", "demo")
    assert (here / "demo" / "before-after.png").stat().st_size > 10_000, "the demo has no picture"
    assert "garp" in lorasmith("inspect", "demo/garp.safetensors")
    lorasmith("sample", "--base", "tiny-sd", "--lora", "demo/garp.safetensors", "--prompt", "garp", "--output", "out")
    assert list((here / "out").rglob("*.png")), "sample drew no picture"
    (here / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    lorasmith("comfyui", "--install", "ComfyUI")
    assert (here / "ComfyUI" / "custom_nodes" / "lorasmith" / "nodes.py").is_file(), "the nodes were not installed"
    left = [path.name for path in home.iterdir() if path.name not in (".cache", ".triton")]
    assert not left, f"left in the home folder: {left}"


def run(*command: str | Path, cwd: Path = ROOT, variables: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed on stdout. If it fails, end with all that it printed."""
    shown = " ".join(Path(part).name if i == 0 else str(part) for i, part in enumerate(command))
    print(f"$ {shown}", flush=True)
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=variables, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout}\n{result.stderr}\nexit code {result.returncode}: {shown}")
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "package", help="is emptied first")
    folder = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheel, sources = build(folder)
    check_contents(wheel, sources)
    walk(wheel, folder)
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, installed and used: all well")


if __name__ == "__main__":
    main()
