"""What reports say of a change that is added to weights in 16 or 8 bits. See `adapters/rounding.py`."""

from __future__ import annotations

MUCH_LOST = 0.3
"""The error above which a picture differs visibly from one without rounding."""


def describe(loss: dict[str, float]) -> str:
    """`71 % of the entries do not change the stored weight, error 0.42 of the size of the change`."""
    return (
        f"{loss['unchanged']:.0%} of the entries do not change the stored weight, error {loss['error']:.2f} of the "
        "size of the change"
    )


def warning(kind: str, loss: dict[str, float]) -> str:
    """What a user should know; empty if little is lost."""
    if loss["error"] <= MUCH_LOST:
        return ""
    return (
        f"On a base that is stored in {kind}, {loss['unchanged']:.0%} of this LoRA's entries round away (error "
        f"{loss['error']:.2f} of its size) where the program adds it into the weights and rounds, as A1111 and Forge "
        f"do. Use a base in {'fp16' if kind == 'fp8' else 'fp32'} there, or a program that keeps LoRAs beside the "
        "weights."
    )
