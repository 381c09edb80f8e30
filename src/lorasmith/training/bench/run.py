"""A whole benchmark: from its options to a table."""

from __future__ import annotations

import itertools
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch

from lorasmith.adapters import AdapterConfig
from lorasmith.core.cache_folder import cache_folder
from lorasmith.core.devices import device_name, pick_device
from lorasmith.core.embedded_bases import DEFAULT_BASE, EMBEDDED_BASES
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.package import VERSION
from lorasmith.core.progress import Progress
from lorasmith.core.registry import registered
from lorasmith.training.bench.contenders import OURS, contender_of
from lorasmith.training.bench.measure import Case, Figures, Turns, measure_group
from lorasmith.training.bench.workload import PRECISIONS, Workload, make_base, make_images, native_resolution

LEAST_IMAGES = 4


@dataclass(frozen=True)
class BenchOptions:
    """What is measured."""

    base: str = "auto"
    """One of `RANDOM_BASES` (full size, random weights), `tiny-sd`, `tiny-flow`, or a base model. `auto`: `sd1` on a
    GPU, else `tiny-sd`."""
    resolution: int = 0
    """Side of the images; 0: that of the base."""
    batches: tuple[int, ...] = (1, 4)
    precision: str = "auto"
    """`fp32` or `bf16`. `auto`: bf16 for full-size bases on a GPU, else fp32."""
    adapters: tuple[str, ...] = ("lora",)
    """Kinds."""
    rank: int = 16
    layers: str = "attention"
    memory: tuple[int, ...] = (0,)
    """Memory levels of ours."""
    against: tuple[str, ...] = ()
    device: str = "auto"
    cuda_graph: bool = True
    steps: int = 10
    """In one turn."""
    turns: int = 5
    start_together: bool = False
    work: Path | None = None
    """Folder for bases, images and caches. None: in the cache folder of Lorasmith."""


class BenchTable(TypedDict, total=False):
    """The fields of `BenchOptions` as arguments."""

    base: str
    resolution: int
    batches: tuple[int, ...]
    precision: str
    adapters: tuple[str, ...]
    rank: int
    layers: str
    memory: tuple[int, ...]
    against: tuple[str, ...]
    device: str
    cuda_graph: bool
    steps: int
    turns: int
    start_together: bool
    work: Path | None


@dataclass
class BenchResult:
    """What was measured, and on what."""

    device: str
    torch: str
    base: str
    resolution: int
    precision: str
    products: list[float] = field(default_factory=list[float])
    """TFLOP/s of a matrix product, before and after each batch."""
    rows: list[Figures] = field(default_factory=list[Figures])

    @property
    def product(self) -> float:
        """The largest of them."""
        return max(self.products, default=0.0)

    def reference(self, row: Figures) -> Figures:
        """The first row of the same batch."""
        return next(other for other in self.rows if other.batch == row.batch)

    def ratio(self, row: Figures) -> float:
        """Time of a step, relative to the first row of the same batch; 0 if one of them has none."""
        reference = self.reference(row).seconds
        return row.seconds / reference if reference else 0.0

    def cpu_ratio(self, row: Figures) -> float:
        """The same of CPU-seconds, which other work on the machine hardly moves."""
        reference = self.reference(row).cpu_seconds
        return row.cpu_seconds / reference if reference else 0.0

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        rows = [
            {
                **vars(row),
                "seconds": row.seconds,
                "images_a_second": row.images_a_second,
                "share_of_product": row.share(self.product),
                "ratio": self.ratio(row),
                "cpu_ratio": self.cpu_ratio(row),
            }
            for row in self.rows
        ]
        return {
            "lorasmith": VERSION,
            "device": self.device,
            "torch": self.torch,
            "python": sys.version.split()[0],
            "base": self.base,
            "resolution": self.resolution,
            "precision": self.precision,
            "products_tflops": self.products,
            "rows": rows,
        }


def run_bench(options: BenchOptions, progress: Progress) -> BenchResult:
    """Measure each case of the options, one batch size after the other.

    Raises LorasmithError for options that cannot be measured, before anything is.
    """
    device = pick_device(options.device)
    base = options.base if options.base != "auto" else ("sd1" if device.type == "cuda" else DEFAULT_BASE)
    common = common_settings(options, base, device, progress)
    groups = [list_cases(options, {**common, "batch": batch}) for batch in options.batches]
    for case in itertools.chain(*groups):
        contender_of(case.contender).check(case.workload)

    result = BenchResult(device_name(device), torch.__version__, base, common["resolution"], common["precision"])
    turns = Turns(options.steps, options.turns, work_folder(options) / "measuring.lock", options.start_together)
    with tempfile.TemporaryDirectory(prefix="lorasmith-bench-") as logs:
        for cases in groups:
            figures, products = measure_group(cases, turns, Path(logs), progress)
            result.rows += figures
            result.products += products
    return result


def common_settings(options: BenchOptions, base: str, device: torch.device, progress: Progress) -> dict[str, Any]:
    """What all workloads share. Makes the base and the images if they are not there."""
    resolution = options.resolution or native_resolution(base)
    if resolution % 64 or resolution < 64:
        raise LorasmithError(f"--resolution: {resolution} is not a multiple of 64, which all contenders can train")
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and base not in EMBEDDED_BASES else "fp32"
    if precision not in PRECISIONS:
        raise LorasmithError(f'--precision: "{precision}" is not one of auto, {", ".join(PRECISIONS)}')
    work = work_folder(options)
    progress.say(f"bases, images and caches of the benchmark are kept in {work}")
    return {
        "base": make_base(base, work),
        "images": make_images(work, resolution, max(*options.batches, LEAST_IMAGES)),
        "cache": str(work / "cache"),
        "resolution": resolution,
        "precision": precision,
        "device": str(device),
        "cuda_graph": options.cuda_graph,
    }


def work_folder(options: BenchOptions) -> Path:
    """Where bases, images and caches are kept."""
    return (options.work or cache_folder() / "bench").resolve()


def list_cases(options: BenchOptions, common: dict[str, Any]) -> list[Case]:
    """Ours with each adapter at each memory level, then the others, which train the plain LoRA."""
    cases: list[Case] = []
    for kind in options.adapters:
        for level in options.memory:
            adapter = adapter_table(kind, options)
            label = " ".join([OURS, kind, *([f"memory {level}"] if len(options.memory) > 1 or level else [])])
            cases.append(Case(label, OURS, Workload(**common, adapter=adapter, memory=level)))
    plain = {"kind": "lora", "rank": options.rank, "layers": options.layers}
    cases += [Case(name, name, Workload(**common, adapter=plain)) for name in options.against]
    return cases


def adapter_table(kind: str, options: BenchOptions) -> dict[str, Any]:
    """The config of an adapter kind, with the rank if it has one. Raises LorasmithError for a wrong kind."""
    kinds = registered(AdapterConfig)
    if kind not in kinds:
        known = ", ".join(sorted(kinds))
        raise LorasmithError(f'--adapter: there is no "{kind}"; {did_you_mean(kind, kinds)} known: {known}')
    table: dict[str, Any] = {"kind": kind, "layers": options.layers}
    if "rank" in kinds[kind].model_fields:
        table["rank"] = options.rank
    return table
