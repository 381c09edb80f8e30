"""Several processes that train one LoRA together: everything of torch.distributed.

The global batch of a step is the config's (`data.batch_size` times `accumulation`) whatever the number of ranks; each
rank takes a share of it. Draws are made by place in the global batch, so N ranks draw what one would, and gradients are
sums, so theirs add up to one's. All ranks hold the same weights; the first alone writes.

Per step there is one sum on the device (gradients and losses in one flat buffer) and a short meeting or two on the CPU,
which wait for no GPU and at which a rank that is gone is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import Launch, find_launch
from lorasmith.data.batch import BatchPlan
from lorasmith.sampling.settings import pick_device

PATIENCE = timedelta(hours=1)
"""How long ranks wait for one that draws previews or encodes images."""


class Ranks:
    """The processes of a run as one of them sees them. A run of one meets nobody: every method is then free."""

    def __init__(self, launch: Launch | None = None) -> None:
        self.index, self.count = (launch.index, launch.count) if launch else (0, 1)
        self.local = launch.local if launch else 0
        self._flat: Tensor | None = None
        self._used: list[bool] | None = None

    @property
    def first(self) -> bool:
        """Whether this rank writes and speaks."""
        return self.index == 0

    def device(self, name: str) -> torch.device:
        """The device that `name` means for this rank, a GPU of its own. Raises LorasmithError if it has none."""
        device = pick_device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise LorasmithError(
                f'device: "{name}" is one GPU, but there are {self.count} ranks; use device = "cuda" or "auto"'
            )
        seen = torch.cuda.device_count()
        if self.local >= seen > 1:
            raise LorasmithError(
                f"rank {self.index} is number {self.local} on its machine, but only {seen} GPUs are there; "
                "start as many processes on a machine as it has GPUs"
            )
        return torch.device("cuda", self.local if seen > 1 else 0)

    def share(self, plans: Sequence[BatchPlan]) -> list[tuple[int, BatchPlan]]:
        """This rank's part of a step's batches: for each, the place of its first sample in the global batch.

        Parts are consecutive and differ by one sample at most; the first rank's is never empty.
        """
        total = sum(len(plan.views) for plan in plans)
        start, end = (-(-total * i // self.count) for i in (self.index, self.index + 1))
        found, seen = [], 0
        for plan in plans:
            a, b = max(start - seen, 0), min(end - seen, len(plan.views))
            if a < b:
                found.append((seen + a, replace(plan, views=plan.views[a:b])))
            seen += len(plan.views)
        return found

    def sum_gradients(self, parameters: Sequence[nn.Parameter], scalars: Tensor, steady: bool = False) -> Tensor:
        """Give each parameter the sum of all ranks' gradients; returns the sum of their `scalars` (n,), such as losses.

        A parameter that no rank has a gradient for has none afterwards; which they are is asked in each step, or, if
        that is `steady`, in the first alone: then nothing but the sum is done, and a CUDA graph can hold it. Numbers
        that are not finite stay so in the sum, so all ranks judge a step alike.
        """
        if self.count == 1:
            return scalars
        import torch.distributed as dist

        trained = [p for p in parameters if p.requires_grad]
        if self._used is None or not steady:
            self._used = self._any([p.grad is not None for p in trained])
        used = self._used
        moved = [p for p, wanted in zip(trained, used, strict=True) if wanted]
        sizes = [p.numel() for p in moved]
        size = sum(sizes) + len(scalars)
        if self._flat is None or len(self._flat) != size:
            self._flat = torch.empty(size, dtype=torch.float32, device=scalars.device)
        *parts, last = self._flat.split([*sizes, len(scalars)])
        for part, p in zip(parts, moved, strict=True):
            part.zero_() if p.grad is None else part.copy_(p.grad.flatten())
        last.copy_(scalars)
        with self._together():
            dist.all_reduce(self._flat)
        for part, p in zip(parts, moved, strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(part.view_as(p))
        return last.clone()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag if self.count == 1 else self._any([flag])[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.any(False)

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raises LorasmithError, on all ranks, naming the facts that are not the same everywhere."""
        if self.count == 1:
            return
        import torch.distributed as dist

        digests = [int.from_bytes(blake2b(str(v).encode(), digest_size=7).digest(), "little") for v in facts.values()]
        least, most = torch.tensor(digests), torch.tensor(digests)
        with self._together():
            dist.all_reduce(least, dist.ReduceOp.MIN)
            dist.all_reduce(most, dist.ReduceOp.MAX)
        differing = [name for name, same in zip(facts, (least == most).tolist(), strict=True) if not same]
        if differing:
            raise LorasmithError(
                f"the {self.count} ranks do not have the same {' and '.join(differing)}. All machines must see "
                "the same files: put config, images and output on a shared disk."
            )

    @torch.no_grad()
    def broadcast_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the first one's values."""
        if self.count == 1 or not tensors:
            return
        import torch.distributed as dist

        flat = torch.cat([t.detach().flatten().float() for t in tensors])
        with self._together():
            dist.broadcast(flat, 0)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _any(self, flags: Sequence[bool]) -> list[bool]:
        import torch.distributed as dist

        found = torch.tensor(flags, dtype=torch.int32)
        with self._together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [bool(value) for value in found.tolist()]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise LorasmithError(
                f"another of the {self.count} ranks is gone, so this one stops too ({reason}). What happened is in the "
                "other's message. The last checkpoint is good; continue with --resume."
            ) from error


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other ranks of the run that this process was started for; the meeting ends with the block.

    `device` is the config's. Raises LorasmithError if they cannot be reached.
    """
    launch = find_launch()
    ranks = Ranks(launch)
    if ranks.count == 1:
        yield ranks
        return
    import torch.distributed as dist

    if dist.is_initialized():  # by a caller of the Python API
        yield ranks
        return
    own = ranks.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    os.environ.setdefault("MASTER_ADDR", launch.address)  # srun does not set them
    os.environ.setdefault("MASTER_PORT", str(launch.port))
    try:
        dist.init_process_group(backend, rank=ranks.index, world_size=ranks.count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise LorasmithError(
            f"rank {ranks.index} of {ranks.count} cannot meet the others at {launch.address}:{launch.port} ({error})"
        ) from error
    yield ranks
    dist.destroy_process_group()  # not after an error: the others may be gone, and it would wait for them
