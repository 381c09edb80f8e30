"""Several processes (ranks) that train one LoRA together: everything that uses torch.distributed.

The global batch of a step is the config's (`data.batch_size` times `accumulation`) whatever the number of ranks; each
rank takes a share of it. Draws follow from places in the global batch, so N ranks draw what one would. Gradients are
sums, so those of the ranks add up to those of one. All ranks hold the same weights; only the first writes files.

A step needs one sum on the device (gradients and losses in one buffer), and one or two short exchanges on the CPU,
which wait for no GPU. A rank that has ended is noticed there.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import blake2b

import torch
from torch import Tensor, nn

from lorasmith.core.devices import pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import Launch, find_launch

TIMEOUT = timedelta(hours=1)
"""How long ranks wait for one that draws previews or encodes images."""


class Ranks:
    """The processes of a run, as one of them sees them. With one process all methods do nothing, at no cost."""

    def __init__(self, launch: Launch | None = None) -> None:
        self.index = 0 if launch is None else launch.index
        """The number of this rank, from 0."""
        self.count = 1 if launch is None else launch.count
        self.local = 0 if launch is None else launch.local
        """The number of this rank among those of its machine."""
        self._buffer: Tensor | None = None
        """Gradients and scalars of a step as one vector, for one sum over the ranks."""
        self._with_gradient: list[bool] | None = None
        """Which parameters have a gradient on any rank."""

    @property
    def first(self) -> bool:
        """Whether this rank writes files and reports progress."""
        return self.index == 0

    def device(self, name: str) -> torch.device:
        """The device that `name` in the config means for this rank: with several ranks, a GPU for each.

        Raises LorasmithError if there is no GPU for this rank.
        """
        device = pick_device(name)
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index is not None:  # pyright: ignore[reportUnnecessaryComparison]
            raise LorasmithError(
                f'device: "{name}" is one GPU, but there are {self.count} ranks; use device = "cuda" or "auto"'
            )
        visible = torch.cuda.device_count()
        if visible <= 1:
            # The launcher lets each process see its own GPU only.
            return torch.device("cuda", 0)
        if self.local >= visible:
            raise LorasmithError(
                f"rank {self.index} is number {self.local} on its machine, but the machine has only {visible} GPUs; "
                "start as many processes on a machine as it has GPUs"
            )
        return torch.device("cuda", self.local)

    def sum_gradients(self, parameters: Sequence[nn.Parameter], scalars: Tensor, steady: bool = False) -> Tensor:
        """Give each parameter the sum of all ranks' gradients; returns the sum of their `scalars` (n,), such as losses.

        A parameter without a gradient on any rank has none afterwards. The ranks exchange which these are in each step,
        or, if that is `steady`, in the first step only: then there is only the sum, which a CUDA graph can hold.
        Numbers that are not finite stay so in the sum, so all ranks come to the same decision about a step.
        """
        if self.count == 1:
            return scalars
        import torch.distributed as dist

        summed = self._parameters_with_gradient(parameters, steady)

        # One buffer for everything, kept from step to step.
        sizes = [*(p.numel() for p in summed), len(scalars)]
        if self._buffer is None or len(self._buffer) != sum(sizes):
            self._buffer = torch.empty(sum(sizes), dtype=torch.float32, device=scalars.device)
        *gradient_parts, scalar_part = self._buffer.split(sizes)

        for part, p in zip(gradient_parts, summed, strict=True):
            if p.grad is None:
                part.zero_()
            else:
                part.copy_(p.grad.flatten())
        scalar_part.copy_(scalars)
        with self._explain_lost_rank():
            dist.all_reduce(self._buffer)
        for part, p in zip(gradient_parts, summed, strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(part.view_as(p))
        return scalar_part.clone()

    def _parameters_with_gradient(self, parameters: Sequence[nn.Parameter], steady: bool) -> list[nn.Parameter]:
        """The trained parameters that have a gradient on any rank; with `steady`, the same as in the first step."""
        trained = [p for p in parameters if p.requires_grad]
        if self._with_gradient is None or not steady:
            self._with_gradient = self._any_rank([p.grad is not None for p in trained])
        return [p for p, has_gradient in zip(trained, self._with_gradient, strict=True) if has_gradient]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        if self.count == 1:
            return flag
        return self._any_rank([flag])[0]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raises LorasmithError, on all ranks, with the names of the facts that differ between ranks."""
        if self.count == 1:
            return
        import torch.distributed as dist

        # A fact is the same everywhere if the smallest and the largest of its hashes are.
        hashes: list[int] = []
        for fact in facts.values():
            digest = blake2b(str(fact).encode(), digest_size=7).digest()
            hashes.append(int.from_bytes(digest, "little"))
        smallest, largest = torch.tensor(hashes), torch.tensor(hashes)
        with self._explain_lost_rank():
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        same_everywhere: list[bool] = (smallest == largest).tolist()
        differing = [name for name, same in zip(facts, same_everywhere, strict=True) if not same]
        if differing:
            raise LorasmithError(
                f"the {self.count} ranks do not have the same {' and '.join(differing)}. All machines must see "
                "the same files: put config, images and output on a shared disk."
            )

    @torch.no_grad()
    def broadcast_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give the tensors of all ranks the values of the first rank."""
        if self.count == 1 or not tensors:
            return
        import torch.distributed as dist

        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        with self._explain_lost_rank():
            dist.broadcast(flat, 0)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def _any_rank(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is true on any rank. An exchange on the CPU."""
        import torch.distributed as dist

        exchanged = torch.tensor(flags, dtype=torch.int32)
        with self._explain_lost_rank():
            dist.all_reduce(exchanged, dist.ReduceOp.MAX)
        return [bool(flag) for flag in exchanged.tolist()]

    @contextmanager
    def _explain_lost_rank(self) -> Generator[None]:
        """Raises LorasmithError if an exchange inside the block fails, because another rank has ended."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise LorasmithError(
                f"another of the {self.count} ranks is gone, so this one stops too ({reason}). The other's message "
                "says what happened."
            ) from error


@contextmanager
def join_ranks(device: str) -> Generator[Ranks]:
    """Connect to the other ranks of the run that this process was started for, until the end of the block.

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

    # NCCL sums on the GPUs, gloo exchanges flags on the CPU.
    rank_device = ranks.device(device)
    backend = "gloo"
    if rank_device.type == "cuda":
        torch.cuda.set_device(rank_device)
        backend = "cpu:gloo,cuda:nccl"
    # torchrun sets these variables, srun does not.
    os.environ.setdefault("MASTER_ADDR", launch.address)
    os.environ.setdefault("MASTER_PORT", str(launch.port))
    try:
        dist.init_process_group(backend, rank=ranks.index, world_size=ranks.count, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise LorasmithError(
            f"rank {ranks.index} of {ranks.count} cannot connect to the others at {launch.address}:{launch.port} "
            f"({error})"
        ) from error
    yield ranks
    # Not after an error: other ranks may be gone, and this would wait for them.
    dist.destroy_process_group()
