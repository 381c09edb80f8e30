"""`deterministic = true`: the same machine gives the same bits.

On a CPU with a fixed number of threads that is so anyway. On a GPU some kernels add in whatever order their threads
come (cuDNN's attention backward is the usual culprit), so two runs of one recipe drift apart; here torch is set to use
none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorasmith.core.errors import LorasmithError

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACE = ":4096:8"
"""cuBLAS then uses the same buffers, and so the same order of sums, in every call (NVIDIA's cuBLAS documentation,
"Results reproducibility")."""
NO_SUCH_ALGORITHM = ("does not have a deterministic implementation", "CUBLAS_WORKSPACE_CONFIG")
"""Texts in torch's errors about an operation that cannot be deterministic here."""


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Torch uses only deterministic algorithms inside the block, on all devices; afterwards its settings are as before.

    Must be entered before the first operation on the GPU. Raises LorasmithError for an operation that has no
    deterministic form. With `enabled` false, nothing changes.
    """
    if not enabled:
        yield
        return
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        memory.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.cudnn_sdp_enabled(),
    )
    os.environ.setdefault(CUBLAS_WORKSPACE, FIXED_WORKSPACE)
    try:
        torch.use_deterministic_algorithms(True)
        # filling new memory costs time and is there to find reads of it, which change nothing here
        memory.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # flash and memory-efficient attention have deterministic backward passes, which the first line selects
        torch.backends.cuda.enable_cudnn_sdp(False)
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in NO_SUCH_ALGORITHM):
            raise
        raise LorasmithError(explain(str(error))) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
        torch.backends.cudnn.benchmark = before[2]
        torch.backends.cudnn.deterministic = before[3]
        torch.backends.cuda.enable_cudnn_sdp(before[4])


def explain(message: str) -> str:
    """Torch's error as a message for the user."""
    reason = message.splitlines()[0].split(", but you set")[0].split(", but the operation")[0]
    if CUBLAS_WORKSPACE in message:
        return (
            f"deterministic: this process used the GPU before; set {CUBLAS_WORKSPACE}={FIXED_WORKSPACE} in the "
            "environment before Python starts, or run the training in a process of its own"
        )
    return (
        f"deterministic: {reason}; set deterministic = false, or leave out what uses this operation (a plug-in, a "
        "transform, another optimizer)"
    )
