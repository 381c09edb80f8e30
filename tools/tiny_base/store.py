"""Checkpoints of the builds: weights only, fp16, replaced whole. Momentum is not kept; it comes back within some
hundred steps."""

from __future__ import annotations

import time
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save(path: Path, modules: dict[str, nn.Module]) -> None:
    """Writes all weights of `modules`, their names prefixed with the module's key and a slash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    tensors = {
        f"{k}/{n}": t.detach().half().contiguous().cpu() for k, m in modules.items() for n, t in m.state_dict().items()
    }
    save_file(tensors, part)
    part.replace(path)


def load(path: Path, modules: dict[str, nn.Module]) -> None:
    """Reads what `save` wrote. Raises KeyError or RuntimeError if the weights are of other models."""
    tensors: dict[str, Tensor] = load_file(path)
    for key, module in modules.items():
        module.load_state_dict(
            {n.removeprefix(f"{key}/"): t.float() for n, t in tensors.items() if n.startswith(f"{key}/")}
        )


class Clock:
    """Time of a run: warm-up over `warmup` steps, constant, then a linear fall to zero in the last `fall` share of the
    minutes."""

    def __init__(self, minutes: float, warmup: int = 100, fall: float = 0.35) -> None:
        self.seconds, self.warmup, self.fall = minutes * 60, warmup, fall
        self.start = self.saved = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def over(self) -> bool:
        """Whether the minutes have passed."""
        return self.elapsed >= self.seconds

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at `step`."""
        left = max(0.0, 1 - self.elapsed / max(self.seconds, 1e-9))
        return min(1.0, (step + 1) / self.warmup, left / self.fall)

    def due(self, every: float = 60.0) -> bool:
        """Whether a checkpoint is due."""
        if time.monotonic() - self.saved < every:
            return False
        self.saved = time.monotonic()
        return True


def device() -> str:
    """cuda if there is one, else cpu. Lets matrix products round to TF32, and a step that cannot be compiled run as it
    is."""
    import torch._dynamo.config

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True
    return "cuda" if torch.cuda.is_available() else "cpu"
