"""torch's AdamW without the import of torch's compiler, which takes a second before the first step.

torch marks some methods of its optimizers as not to be compiled, and imports the compiler for that when they are
called. Nothing is compiled here, so the methods below the marks are used. They are the same code.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from typing import Any

import torch


def unmarked(method: Any) -> Any:
    """The method below all wrappers."""
    while hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method


class EagerAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` for steps that nobody compiles. Needs torch's usual setting `differentiable=False`."""

    add_param_group: Any = unmarked(torch.optim.AdamW.add_param_group)
    zero_grad: Any = unmarked(torch.optim.AdamW.zero_grad)
    state_dict: Any = unmarked(torch.optim.AdamW.state_dict)
    load_state_dict: Any = unmarked(torch.optim.AdamW.load_state_dict)
    # Without its mark, the method does not turn gradients off by itself.
    step: Any = torch.no_grad()(unmarked(torch.optim.AdamW.step))
