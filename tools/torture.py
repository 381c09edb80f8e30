"""Interrupt and starve runs, and count what is lost: `python -m tools.torture --count 200` (`make torture N=200`).

Each case is a short run on the built-in base. It is killed or asked to stop at a random moment or at the n-th operation
on a file of its folder, or it meets a fault: a full disk, a folder that is gone, a damaged checkpoint. Then it is
continued without the fault. A case is survived if no process ended with a traceback and the run came to its end; it is
exact if its LoRA is, bit for bit, that of a run that was left in peace.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from lorasmith.core.store import LEFTOVER

STEPS = 6
LIMIT = 300
"""Seconds after which a process is taken for hung."""
EXIT_CODES = (0, 1, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
"""What a process may end with; a bug ends it with 70."""
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "new tokens": {"concepts": [{"words": ["<disc>"], "init": ["circle"], "lr": 1e-3}]},
    "ema": {"ema": 0.9},
    "validation": {"data.validation": {"split": 0.25}, "validation": {"every_steps": 2, "timesteps": [500]}},
    "dropout": {"adapter.dropout": 0.2},
    "schedule-free": {"optimizer": {"kind": "class", "name": "schedulefree.AdamWScheduleFree", "lr": 1e-3}},
    "bf16": {"precision": "bf16"},
    "states": {"hooks": [{"kind": "state", "every_steps": 2, "keep": 1}]},
    "accumulation": {"accumulation": 2},
}
"""Settings of each kind of run; a dotted key is one setting of a table."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

# Runs the command line and sends itself a signal at the n-th operation on a file in the folder of the run.
AT_OPERATION = """
import os, sys
folder, at, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
operations = 0
def watch(event, arguments):
    global operations
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and folder in str(arguments[0]):
        operations += 1
        if operations == at:
            os.kill(os.getpid(), number)
sys.addaudithook(watch)
sys.argv = ["lorasmith", *sys.argv[4:]]
from lorasmith.cli.main import main
main()
"""


@dataclass
class Tally:
    """What came out. `problems`: what went wrong, for people."""

    injected: int = 0
    survived: int = 0
    tried: int = 0
    exact: int = 0
    problems: list[str] = field(default_factory=list)


class Workshop:
    """A folder with images, a cache, the runs that were left in peace and those that were not."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.whole: dict[str, dict[str, torch.Tensor]] = {}
        self.seconds: dict[str, float] = {}
        make_images(self.images)

    def settings(self, kind: str, output: Path) -> dict[str, Any]:
        """The config of a run of one kind."""
        table: dict[str, Any] = {
            "base": "tiny-sd",
            "output": str(output),
            "name": "lora",
            "steps": STEPS,
            "threads": 1,
            "data": {"images": str(self.images), "resolution": 64, "cache_dir": str(self.folder / "cache")},
            "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
            "checkpoint": {"every_steps": 1},
        }
        for key, value in KINDS[kind].items():
            outer, _, inner = key.partition(".")
            if inner:
                table[outer][inner] = value
            else:
                table[outer] = value
        return table

    def command(self, kind: str, output: Path) -> list[str]:
        """The arguments that start the run, or continue it if it has begun."""
        if (output / "config.toml").is_file():
            return ["train", "--resume", str(output)]
        config = self.folder / f"{output.name}.json"
        config.write_text(json.dumps(self.settings(kind, output)), encoding="utf-8")
        return ["train", str(config)]

    def reference(self, kind: str) -> None:
        """Train the run that is left in peace, once for each kind."""
        if kind in self.whole:
            return
        output = self.folder / f"whole-{kind.replace(' ', '-')}"
        started = time.monotonic()
        done = run(self.command(kind, output))
        if done.returncode != 0:
            raise SystemExit(f"{kind}: the run without any fault fails:\n{done.stderr}")
        self.seconds[kind] = time.monotonic() - started
        self.whole[kind] = load_file(output / "lora.safetensors")

    def judge(self, name: str, kind: str, output: Path, done: subprocess.CompletedProcess[str]) -> None:
        """Continue a run after its fault, and count whether it survived and whether its LoRA is exact."""
        self.tally.injected += 1
        problem = fault_of(done)
        for _ in range(3):
            if problem or (done.returncode == 0 and (output / "lora.safetensors").is_file()):
                break
            done = run(self.command(kind, output))
            problem = fault_of(done)
        if problem or not (output / "lora.safetensors").is_file():
            self.tally.problems.append(f"{name}: {problem or 'no LoRA at the end: ' + done.stderr[-300:]}")
            return

        self.tally.survived += 1
        self.tally.tried += 1
        tensors, whole = load_file(output / "lora.safetensors"), self.whole[kind]
        if tensors.keys() == whole.keys() and all(torch.equal(tensors[key], whole[key]) for key in whole):
            self.tally.exact += 1
        else:
            self.tally.problems.append(f"{name}: the LoRA differs from that of the run without a fault")


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own until it ends."""
    command = [sys.executable, "-m", "lorasmith", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def fault_of(done: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with the end of a process; empty if nothing is."""
    if done.returncode not in EXIT_CODES or "Traceback" in done.stderr:
        return f"exit code {done.returncode}: {done.stderr[-400:]}"
    return ""


def make_images(folder: Path) -> None:
    """A few small pictures with captions."""
    folder.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (72, 64), (30 * i, 250 - 30 * i, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a <disc>, number {i}", encoding="utf-8")


def interrupt(shop: Workshop, kind: str, number: int) -> None:
    """A signal at a random moment, or at an operation on a file, every other time."""
    shop.reference(kind)
    output = shop.folder / f"run-{number}"
    chosen = SIGNALS[number // 2 % len(SIGNALS)]
    if number % 2:
        at = shop.rng.randrange(1, 150)
        name = f"{kind}, {chosen.name} at file operation {at}"
        script = [sys.executable, "-c", AT_OPERATION, str(output), str(at), str(int(chosen))]
        done = subprocess.run(
            [*script, *shop.command(kind, output)], capture_output=True, text=True, timeout=LIMIT, check=False
        )
    else:
        delay = shop.rng.uniform(0.3, 1.0) * shop.seconds[kind]
        name = f"{kind}, {chosen.name} after {delay:.2f} s"
        command = [sys.executable, "-m", "lorasmith", *shop.command(kind, output)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(chosen)
            out, err = process.communicate(timeout=LIMIT)
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
        # before Python has set its handlers, Ctrl-C ends the imports with a traceback of the interpreter
        if chosen == signal.SIGINT and "KeyboardInterrupt" in err:
            done.stderr = ""
    shop.judge(name, kind, output, done)


def limited(limit: int, value: int) -> Callable[[], None]:
    """A function that sets a limit of the system for a child process."""
    return lambda: resource.setrlimit(limit, (value, value))


def full_disk(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """No file may grow beyond 100 kB."""
    return run(shop.command("plain", output), preexec_fn=limited(resource.RLIMIT_FSIZE, 100_000))


def few_handles(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    return run(shop.command("plain", output), preexec_fn=limited(resource.RLIMIT_NOFILE, 40))


def private_umask(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    return run(shop.command("plain", output), umask=0o077)


def bare_environment(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """Without HOME and TMPDIR."""
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "TMPDIR")}
    return run(shop.command("plain", output), env=env)


def damaged_checkpoint(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """The newest checkpoint and one entry of the cache are cut off; the LoRA is gone."""
    run(shop.command("plain", output))
    (output / "lora.safetensors").unlink()
    newest = max((output / "checkpoints").glob("step-*"))
    for path in (newest / "adapter.safetensors", next((shop.folder / "cache").rglob("*.safetensors"))):
        path.write_bytes(path.read_bytes()[:-8])
    return run(shop.command("plain", output))


def clock_set_back(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """All files of a run without its LoRA are of tomorrow."""
    run(shop.command("plain", output))
    (output / "lora.safetensors").unlink()
    tomorrow = time.time() + 86400
    for path in output.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    return run(shop.command("plain", output))


def removed_data(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """The images are gone when a run is continued, and come back."""
    run(shop.command("plain", output))
    (output / "lora.safetensors").unlink()
    aside = shop.images.rename(shop.folder / "aside")
    done = run(shop.command("plain", output))
    aside.rename(shop.images)
    return done


def removed_output(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """The folder of the run is deleted while it trains."""
    command = [sys.executable, "-m", "lorasmith", *shop.command("plain", output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(output.glob("checkpoints/step-*")):
            time.sleep(0.01)
        shutil.rmtree(output, ignore_errors=True)
        out, err = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def two_processes(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """A second process is started on the same folder; one of them is refused, the other comes to its end."""
    arguments = shop.command("plain", output)
    command = [sys.executable, "-m", "lorasmith", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        second = run(arguments)
        out, err = first.communicate(timeout=LIMIT)
    if sorted((first.returncode, second.returncode)) != [0, 1]:
        err += f"\nTraceback: exit codes {first.returncode} and {second.returncode}"
    return subprocess.CompletedProcess(command, 0 if "Traceback" not in err else 70, out, err)


def lost_rank(shop: Workshop, output: Path) -> subprocess.CompletedProcess[str]:
    """Of two ranks, the second is killed after the first checkpoint. A single process continues the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lorasmith", *shop.command("plain", output), "device=cpu"]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(i)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    while ranks[0].poll() is None and not list(output.glob("checkpoints/step-*")):
        time.sleep(0.01)
    ranks[1].kill()
    ranks[1].communicate(timeout=LIMIT)
    out, err = ranks[0].communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(command, ranks[0].returncode, out, err)


FAULTS: dict[str, Callable[[Workshop, Path], subprocess.CompletedProcess[str]]] = {
    "full disk": full_disk,
    "damaged checkpoint and cache": damaged_checkpoint,
    "two processes": two_processes,
    "removed output": removed_output,
    "removed data": removed_data,
    "lost rank": lost_rank,
    "clock set back": clock_set_back,
    "few file handles": few_handles,
    "umask 077": private_umask,
    "no HOME and TMPDIR": bare_environment,
}
NAMES = {"umask 077": "an odd näme 'with' $signs; and spaces", "clock set back": "long-" + "x" * 180}
"""Names of the folders of some faults, which are a fault by themselves."""


def strays(folder: Path) -> list[Path]:
    """Temporary files, folders and locks that are left."""
    return [path for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name) or path.name == ".lock"]


def torture(folder: Path, count: int, seed: int, kinds: list[str], faults: list[str]) -> Tally:
    """`count` interruptions over the kinds in turn, then the faults."""
    shop = Workshop(folder, seed)
    for number in range(count):
        interrupt(shop, kinds[number % len(kinds)], number)
    for name in faults:
        shop.reference("plain")
        output = folder / "faults" / NAMES.get(name, name)
        output.parent.mkdir(exist_ok=True)
        shop.judge(name, "plain", output, FAULTS[name](shop, output))
    left = strays(folder)
    shop.tally.problems += [f"left over: {path.relative_to(folder)}" for path in left]
    print(f"faults survived  {shop.tally.survived} of {shop.tally.injected}")
    print(f"runs exact       {shop.tally.exact} of {shop.tally.tried}")
    print(f"strays left      {len(left)}")
    for problem in shop.tally.problems:
        print(f"  {problem}")
    return shop.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of interruptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = torture(Path(folder), options.count, options.seed, options.kinds, options.faults)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
