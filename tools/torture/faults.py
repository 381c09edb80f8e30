"""What can be wrong around a run: disk, memory, files, folders, clock, environment, other processes."""

from __future__ import annotations

import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.torture.processes import Ended, limited, obey_permissions, run, run_with_action, start
from tools.torture.workshop import AWAY, Case, Workshop

DAY = 86_400
READ_ONLY, WRITABLE = 0o555, 0o755

Inject = Callable[[Workshop, Case, random.Random], Ended]

# ---- faults that are there from the start ----------------------------------------------------------------------------


def full_disk(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """No file may grow beyond 100 kB."""
    return run(shop.command(case), preexec_fn=limited(resource.RLIMIT_FSIZE, 100_000))


def few_handles(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    return run(shop.command(case), preexec_fn=limited(resource.RLIMIT_NOFILE, 40))


def little_memory(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """An address space that is too small even for the libraries, or just large enough for them."""
    return run(shop.command(case), preexec_fn=limited(resource.RLIMIT_AS, rng.randrange(100, 1500) << 20))


def private_umask(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    return run(shop.command(case), umask=0o077)


def bare_environment(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """Without HOME and TMPDIR."""
    return run(shop.command(case), env={k: v for k, v in os.environ.items() if k not in ("HOME", "TMPDIR")})


def read_only_output(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The folder in which the run's folder would be made cannot be written."""
    case.output.parent.chmod(READ_ONLY)
    try:
        return run(shop.command(case), preexec_fn=obey_permissions)
    finally:
        case.output.parent.chmod(WRITABLE)


def read_only_cache(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The cache is empty and cannot be filled."""
    shop.cache(case).mkdir()
    shop.cache(case).chmod(READ_ONLY)
    try:
        return run(shop.command(case), preexec_fn=obey_permissions)
    finally:
        shop.cache(case).chmod(WRITABLE)


def two_processes(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """A second process is started on the same folder; one of them is refused, the other comes to its end."""
    arguments = shop.command(case)
    first = start(arguments)
    second = run(arguments)
    ended = first.wait()
    messages = second.messages + ended.messages
    if sorted((*ended.codes, *second.codes)) != [0, 1]:
        messages += f"\nTraceback: the processes ended with {ended.codes[0]} and {second.codes[0]}, not with 0 and 1"
    return Ended((0,), messages)


# ---- a run that had all its steps, but lost its LoRA, and is continued -----------------------------------------------


def run_without_its_lora(shop: Workshop, case: Case) -> None:
    run(shop.command(case))
    (case.output / "lora.safetensors").unlink()


def damaged_checkpoint(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The newest checkpoint and one entry of the cache are cut off."""
    run_without_its_lora(shop, case)
    newest = max((case.output / "checkpoints").glob("step-*"))
    for path in (newest / "adapter.safetensors", next((shop.folder / "cache").rglob("*.safetensors"))):
        path.write_bytes(path.read_bytes()[:-8])
    return run(shop.command(case))


def files_of_tomorrow(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The clock was set back: all files of the run are of tomorrow."""
    run_without_its_lora(shop, case)
    tomorrow = time.time() + DAY
    for path in case.output.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    return run(shop.command(case))


def removed_data(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The images are gone when the run is continued, and come back."""
    run_without_its_lora(shop, case)
    with images_away(shop):
        return run(shop.command(case))


@contextmanager
def images_away(shop: Workshop) -> Iterator[None]:
    away = shop.images.rename(shop.images.with_name(AWAY))
    yield
    away.rename(shop.images)


# ---- faults that come while the run trains ---------------------------------------------------------------------------


def removed_output(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """The folder of the run is deleted after the first checkpoint."""
    started = start(shop.command(case))
    wait_for_checkpoint(case, started.running)
    shutil.rmtree(case.output, ignore_errors=True)
    return started.wait()


def lost_rank(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """Of two ranks, the second is killed after the first checkpoint. A single process continues the run."""
    started = start([*shop.command(case), "device=cpu"], ranks=2)
    wait_for_checkpoint(case, started.running)
    started.processes[1].kill()
    return started.wait()


def wait_for_checkpoint(case: Case, running: Callable[[], bool]) -> None:
    while running() and not list(case.output.glob("checkpoints/step-*")):
        time.sleep(0.01)


def at_operation(action: str) -> Inject:
    """The fault that a piece of Python makes, in the process of the run, at a random operation on a file."""

    def inject(shop: Workshop, case: Case, rng: random.Random) -> Ended:
        code = action.format(output=str(case.output), images=str(shop.images), away=AWAY, number=rng.random())
        ended = run_with_action(
            shop.command(case), case.output, rng.randrange(1, 150), code, preexec_fn=obey_permissions
        )
        # the fault is over
        for folder, _, _ in os.walk(case.output):
            Path(folder).chmod(WRITABLE)
        away = shop.images.with_name(AWAY)
        if away.is_dir():
            away.rename(shop.images)
        return ended

    return inject


DISK_FILLS = """
import resource
size = int({number} * 100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
"""
MEMORY_ENDS = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
size = pages * resource.getpagesize() + int({number} * 30_000_000)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""
HANDLES_END = """
import os, resource
number = max(map(int, os.listdir("/proc/self/fd"))) + 1 + int({number} * 3)
resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
"""
CLOCK_SET_BACK = """
import time
real = time.time
time.time = lambda real=real: real() - 86_400
"""
OUTPUT_READ_ONLY = """
import os
for folder, _, _ in list(os.walk({output!r})):
    os.chmod(folder, 0o555)
"""
IMAGES_REMOVED = """
import os
if os.path.isdir({images!r}):
    os.rename({images!r}, os.path.join(os.path.dirname({images!r}), {away!r}))
"""

ONCE: dict[str, Inject] = {
    "full disk": full_disk,
    "damaged checkpoint and cache": damaged_checkpoint,
    "two processes": two_processes,
    "removed output": removed_output,
    "removed data": removed_data,
    "lost rank": lost_rank,
    "files of tomorrow": files_of_tomorrow,
    "few file handles": few_handles,
    "umask 077": private_umask,
    "no HOME and TMPDIR": bare_environment,
    "read-only output": read_only_output,
    "read-only cache": read_only_cache,
}
REPEATED: dict[str, Inject] = {
    "little memory": little_memory,
    "disk fills": at_operation(DISK_FILLS),
    "memory ends": at_operation(MEMORY_ENDS),
    "file handles end": at_operation(HANDLES_END),
    "clock set back": at_operation(CLOCK_SET_BACK),
    "output becomes read-only": at_operation(OUTPUT_READ_ONLY),
    "images are removed": at_operation(IMAGES_REMOVED),
}
"""Faults whose moment is random, so that they are tried several times."""
TIMES = 5
COLD = ("read-only cache", "images are removed", "memory ends")
"""Faults that are tried with an empty cache."""
NAMES = {"umask 077": "an odd näme 'with' $signs; and spaces", "files of tomorrow": "long-" + "x" * 180}
"""Names of the folders of some faults, which are a fault by themselves."""
ALL = (*ONCE, *REPEATED)


def faults(folder: Path, names: list[str]) -> list[Case]:
    """A case for each fault, or several where the moment is random. Each has a folder of its own."""
    cases: list[Case] = []
    for name in names:
        if name in ONCE:
            output = folder / "faults" / name / NAMES.get(name, "run")
            cases.append(Case(name, "plain", output, ONCE[name], name in COLD))
            continue
        for number in range(TIMES):
            output = folder / "faults" / name / f"run-{number}"
            cases.append(Case(f"{name} ({number})", "plain", output, REPEATED[name], name in COLD))
    return cases
