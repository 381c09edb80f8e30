"""AdamW for vectors, embeddings, and the first and last layers; orthogonalised momentum for the other matrices and
convolutions.

The second is Muon (Jordan et al. 2024) with the step scaled to AdamW's size (arXiv 2502.16982, equation 4); matrices of
one shape go through the Newton-Schulz iteration together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """(b, rows, columns) to nearly orthogonal ones, by the quintic Newton-Schulz iteration in bfloat16."""
    x = matrices.bfloat16()
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if flip else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; decoupled weight decay. Parameters have two or four dimensions."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[(p.shape[0], p[0].numel())].append(p)
            for shape, parameters in shapes.items():
                self._move(parameters, shape, group)

    def _move(self, parameters: list[Tensor], shape: tuple[int, int], group: dict) -> None:
        for p in parameters:
            if "m" not in self.state[p]:
                self.state[p]["m"] = torch.zeros_like(p)
        moments = [self.state[p]["m"] for p in parameters]
        grads = [p.grad for p in parameters]
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, moments, group["momentum"])
        updates = orthogonalise(torch.stack([u.reshape(shape) for u in nesterov]))
        rate = group["lr"] * 0.2 * max(shape) ** 0.5
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        steps = updates * -rate  # the rate may be a tensor, so that a CUDA graph can hold the step
        torch._foreach_add_(parameters, [u.view(p.shape) for u, p in zip(steps, parameters, strict=True)])


class Pair:
    """Both optimizers under one learning rate, which is a tensor on a GPU, so that a CUDA graph can hold `step`."""

    def __init__(self, modules: dict[str, nn.Module], weight_decay: float = 0.01) -> None:
        matrices, rest = [], []
        for module in modules.values():
            for name, p in module.named_parameters():
                plain = p.ndim < 2 or "embedding.weight" in name or "conv_in" in name or "conv_out" in name
                (rest if plain else matrices).append(p)
        fused = rest[0].is_cuda
        self.both = [
            Muon(matrices, lr=0.0, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=fused, capturable=fused),
        ]
        self.lr: Tensor | float = torch.zeros((), device=rest[0].device) if fused else 0.0

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next steps."""
        if isinstance(self.lr, Tensor):
            self.lr.fill_(lr)
        else:
            self.lr = lr

    def step(self) -> None:
        """One step, then the gradients are dropped."""
        for optimizer in self.both:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Average:
    """Exponential moving average of the parameters of several modules."""

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self.modules, self.decay, self.steps = modules, decay, 0
        self.live = [p for m in modules.values() for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the present weights; early on the average follows quickly."""
        self.steps += 1
        torch._foreach_lerp_(
            self.mean, [p.detach() for p in self.live], 1 - min(self.decay, self.steps / (self.steps + 10))
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the present weights and the average."""
        for p, m in zip(self.live, self.mean, strict=True):
            kept = p.detach().clone()
            p.copy_(m)
            m.copy_(kept)
