"""Carry out the Dockerfile without Docker: each of its steps, in a bare Debian root of its own.

    python -m tools.check_container --folder build/container [--torch cpu] [--copy FILE ...] [--pip-torch]

Needs root, `debootstrap` and `chroot`. Debian's packages take the place of the Python image, which cannot be fetched
without a registry; layers, volumes and published ports are Docker's and are not tested. The bare Debian is kept in the
folder, so that a second run does not fetch it again; each run begins with a new copy of it. `--copy`: files of this
machine that the network needs in the root (resolv.conf is always copied). `--pip-torch`: torch comes from pip's own
index, where that of PyTorch cannot be reached.

Afterwards the program is started in it as the image would: `--version`, `doctor --no-test`, `recipes`, a short run, and
the studio, which must answer on its port.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = "ca-certificates,python3,python3-venv,python3-pip,python-is-python3"
STUDIO_SECONDS = 120
TORCH_BACKEND = re.compile(r'--torch-backend "?\$TORCH"?')


@dataclass
class Stage:
    """One `FROM` of the Dockerfile and what follows it."""

    name: str
    image: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Place:
    """A root folder in which steps are carried out, and what the steps so far have set."""

    root: Path
    variables: dict[str, str]
    folder: str = "/"
    user: str = "0"
    entry: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def in_root(self, command: list[str]) -> list[str]:
        """The command of this machine that runs `command` in the root."""
        script = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        settings = [f"{name}={value}" for name, value in self.variables.items()]
        user = [] if self.user == "0" else [f"--userspec={self.user}:{self.user}"]
        print(f"$ {shlex.join(command)[:160]}", flush=True)
        return ["chroot", *user, str(self.root), "/usr/bin/env", "-i", *settings, "/bin/sh", "-c", script]

    def run(self, command: list[str]) -> None:
        """Run a command in the root. Ends the program if it fails."""
        done = subprocess.run(self.in_root(command))
        if done.returncode:
            sys.exit(f"exit code {done.returncode}")


def read_dockerfile(text: str) -> list[Stage]:
    """The stages with their instructions; lines that go on are joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", "".join(line for line in text.splitlines(True) if not line.startswith("#")))
    stages: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            stages.append(Stage(name, image))
        elif stages:
            stages[-1].steps.append((instruction, rest))
    return stages


def make_root(folder: Path, mirror: str, copies: list[Path]) -> Path:
    """A bare Debian with Python, in place of the image: `folder`/root, a new copy of `folder`/bare."""
    bare, root = folder / "bare", folder / "root"
    if not (bare / "usr/bin/python3").exists():
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(bare), mirror)
    # the steps are not made to be carried out twice in one root: `useradd` fails if the user exists
    if (root / "proc").is_mount():
        run("umount", str(root / "proc"))
    run("rm", "-rf", "--one-file-system", str(root))
    run("cp", "-aT", "--reflink=auto", str(bare), str(root))
    # the Python image lets pip install into the system
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for path in [Path("/etc/resolv.conf"), *copies]:
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        # a link in the root may lead out of it, so that it is replaced and not written through
        run("cp", "-aT", "--remove-destination", str(path), str(target))
    return root


@contextmanager
def mounted_proc(root: Path) -> Iterator[None]:
    """With /proc in the root, which every container has: psutil reads the memory there, torch the processor."""
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    try:
        yield
    finally:
        run("umount", str(root / "proc"))


def carry_out(stage: Stage, place: Place, others: dict[str, Path], pip_torch: bool) -> None:
    """Do the steps of a stage. Ends the program at one that fails, or that this file does not know."""
    for instruction, rest in stage.steps:
        if instruction == "RUN":
            place.run(["/bin/sh", "-c", with_pip(rest) if pip_torch else rest])
        elif instruction == "COPY":
            copy(rest, place, others)
        elif instruction not in ("VOLUME", "EXPOSE"):
            set_value(instruction, rest, place)


def set_value(instruction: str, rest: str, place: Place) -> None:
    """An instruction that decides how the next ones are run."""
    if instruction == "ARG":
        name, _, default = rest.partition("=")
        place.variables.setdefault(name, default)
    elif instruction == "ENV":
        place.variables |= dict(each.split("=", 1) for each in shlex.split(rest))
    elif instruction == "WORKDIR":
        place.folder = rest
        (place.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif instruction == "USER":
        place.user = rest
    elif instruction == "ENTRYPOINT":
        place.entry = json.loads(rest)
    elif instruction == "CMD":
        place.arguments = json.loads(rest)
    else:
        sys.exit(f"the instruction {instruction} of the Dockerfile is not known here")


def with_pip(command: str) -> str:
    """A command with pip in place of uv and its choice of torch's build."""
    return TORCH_BACKEND.sub("", command).replace("uv pip install --system --no-cache", "pip install --no-cache-dir")


def copy(rest: str, place: Place, others: dict[str, Path]) -> None:
    """`COPY SOURCE TARGET`, from the files that git tracks or from another stage."""
    words = rest.split()
    stage = words.pop(0).partition("=")[2] if words[0].startswith("--from=") else ""
    source, target = words
    goal = place.root / str(Path(place.folder, target)).lstrip("/")
    if stage:
        shutil.copytree(others[stage] / source.lstrip("/"), goal, dirs_exist_ok=True)
        return
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if source == "." and (ROOT / name).is_file():
            (goal / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, goal / name)
    if source != ".":
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / source, goal)


def run(*command: str) -> None:
    """Run a command of this machine. Ends the program if it fails."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "container")
    parser.add_argument("--torch", default="cpu", help="the build argument TORCH")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--copy", type=Path, nargs="*", default=[])
    parser.add_argument("--pip-torch", action="store_true")
    options = parser.parse_args()
    missing = [name for name in ("debootstrap", "chroot") if shutil.which(name) is None]
    if missing:
        sys.exit(f"NOT BUILT: {' and '.join(missing)} not found. The Dockerfile is checked by its tests alone.")

    root = make_root(options.folder.resolve(), options.mirror, options.copy)
    with mounted_proc(root):
        build_and_start(root, options.torch, options.pip_torch)
    print("Every step of the Dockerfile worked in a bare Debian root.")
    print("NOT TESTED: the image of Docker itself, its layers, volumes and ports; a GPU.")
    if options.pip_torch:
        print("NOT TESTED: the choice of torch's build by uv (--torch-backend); torch came from pip's index.")


def build_and_start(root: Path, torch: str, pip_torch: bool) -> None:
    """Carry out all stages, then start the program as the image would. Ends the program at what fails."""
    others: dict[str, Path] = {}
    variables = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", "TORCH": torch}
    place = Place(root, variables)
    for stage in read_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        # both stages have the same image, so one root serves both
        place = Place(root, dict(variables))
        carry_out(stage, place, others, pip_torch)
        others[stage.name] = root
    place.variables["HF_HUB_OFFLINE"] = "1"
    for command in (["--version"], ["doctor", "--no-test"], ["recipes"], ["train", "garp", "steps=2", "--overwrite"]):
        place.run([*place.entry, *command])
    check_studio(place)


def check_studio(place: Place) -> None:
    """Start what the image starts without arguments, until it answers. Ends the program if it does not."""
    port = place.arguments[place.arguments.index("--port") + 1]
    address = f"http://127.0.0.1:{port}/"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", int(port))) == 0:
            sys.exit(f"port {port} of this machine is in use, so that the studio cannot be checked; stop what uses it")
    child = subprocess.Popen(place.in_root([*place.entry, *place.arguments]))
    try:
        until = time.monotonic() + STUDIO_SECONDS
        while (status := status_of(address)) is None and child.poll() is None and time.monotonic() < until:
            time.sleep(1)
    finally:
        child.terminate()
        child.wait()
    if status is None:
        sys.exit(f"the studio did not answer on {address} within {STUDIO_SECONDS} seconds")
    print(f"{address} answers with status {status}")


def status_of(address: str) -> int | None:
    """The status of an answer, such as 403 where a token is missing; None without an answer."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


if __name__ == "__main__":
    main()
