"""What keeps new words in their place while they are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lorasmith.concepts.config import Concept
from lorasmith.concepts.vocabulary import Vocabulary


class TokenTrainer:
    """The words of a run: which parameters each concept has, and what is done to them after a step."""

    def __init__(self, vocabulary: Vocabulary, concepts: Sequence[Concept], own: Mapping[str, Tensor]) -> None:
        """`own`: the model's own vectors (tokens, width) by text encoder, for their standard deviation."""
        self.vocabulary, self.concepts = vocabulary, tuple(concepts)
        words = iter(vocabulary.values)
        self.parameters: list[list[nn.Parameter]] = [
            [p for _ in concept.words for p in next(words).parameters()] for concept in concepts
        ]
        self._spread = {part: float(t.float().std()) for part, t in own.items()}
        self._stopped = [torch.zeros((), dtype=torch.bool, device=ps[0].device) for ps in self.parameters]
        self._kept = [[p.detach().clone() for p in ps] for ps in self.parameters]

    @torch.no_grad()
    def after_step(self) -> None:
        """Stop what is long enough (Mix-of-Show), bring back the spread; nothing here waits for the device."""
        for concept, parameters, stopped, kept in zip(
            self.concepts, self.parameters, self._stopped, self._kept, strict=True
        ):
            if concept.keep_std:
                self._respread(parameters)
            if concept.norm_stop is None:
                continue
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(torch.where(stopped, old, p))
                old.copy_(p)
            length = torch.cat([torch.linalg.vector_norm(p, dim=-1).flatten() for p in parameters]).mean()
            stopped.logical_or_(length >= concept.norm_stop)

    def _respread(self, parameters: Sequence[nn.Parameter]) -> None:
        spreads = list(self._spread.values())
        for i, p in enumerate(parameters):
            std = p.std(-1, keepdim=True).clamp(min=1e-12)
            p.mul_(torch.where(std > 0, spreads[i % len(spreads)] / std, 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        """Vectors and which concepts have stopped, for checkpoints."""
        found = {f"vectors.{name}": p.detach() for name, p in self.vocabulary.named_parameters()}
        return found | {f"stopped.{i}": s.float() for i, s in enumerate(self._stopped)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, p in self.vocabulary.named_parameters():
            p.copy_(state[f"vectors.{name}"])
        for i, stopped in enumerate(self._stopped):
            stopped.copy_(state[f"stopped.{i}"].bool())
        for parameters, kept in zip(self.parameters, self._kept, strict=True):
            for p, old in zip(parameters, kept, strict=True):
                old.copy_(p)
