"""What autograd saves of a transformer, block by block, in multiples of what enters a block.

The multiples were counted with fake tensors on the published sizes in bfloat16, with LoRA on the layers of the preset
`attention-mlp`, which is the default; a test counts them again. On the attentions alone a block saves five fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorasmith.families.network_shape import BlockActivations


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a transformer on tokens of image and text."""

    width: int
    patch: int
    """The side of a token in latents."""
    text_tokens: int
    blocks: tuple[float, ...]
    """What each block saves, in multiples of its input."""
    dual: int = 0
    """How many of the blocks attend to the image a second time."""
    dual_saves: float = 0.0
    """What that adds, in multiples of the image's tokens."""
    margin: float = 1.05

    def block_activations(self, width: int, height: int) -> list[BlockActivations]:
        """See `NetworkShape`."""
        image_tokens = (width // self.patch) * (height // self.patch)
        inputs = (image_tokens + self.text_tokens) * self.width
        saved: list[BlockActivations] = []
        for index, multiple in enumerate(self.blocks):
            second = self.dual_saves * image_tokens * self.width if index < self.dual else 0.0
            numbers = multiple * inputs + second
            saved.append(BlockActivations(inputs, numbers, numbers))
        return saved
