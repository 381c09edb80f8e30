"""The training of new tokens: their parameters, and the corrections after each optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lorasmith.concepts.config import Concept
from lorasmith.concepts.vocabulary import Vocabulary


class TokenTrainer:
    """The new tokens of a run: which parameters each concept has, and how they are corrected after a step."""

    def __init__(
        self, vocabulary: Vocabulary, concepts: Sequence[Concept], existing_embeddings: Mapping[str, Tensor]
    ) -> None:
        """`existing_embeddings`: the model's own token embeddings (tokens, width) by text encoder, for their standard
        deviation."""
        self.vocabulary, self.concepts = vocabulary, tuple(concepts)
        self.parameters: list[list[nn.Parameter]] = []
        token_values = iter(vocabulary.values)
        for concept in concepts:
            of_concept: list[nn.Parameter] = []
            for _ in concept.words:
                of_concept += next(token_values).parameters()
            self.parameters.append(of_concept)

        self._existing_stds = [float(table.float().std()) for table in existing_embeddings.values()]
        # On the device, so that no step waits for the decision whether a concept has stopped.
        self._stopped: list[Tensor] = []
        self._last_values: list[list[Tensor]] = []
        for parameters in self.parameters:
            self._stopped.append(torch.zeros((), dtype=torch.bool, device=parameters[0].device))
            self._last_values.append([p.detach().clone() for p in parameters])

    @torch.no_grad()
    def after_step(self) -> None:
        """Restore the standard deviation (`keep_std`), and stop concepts whose vectors are long enough (`norm_stop`,
        Mix-of-Show). Nothing here waits for the device."""
        for index, concept in enumerate(self.concepts):
            parameters, stopped = self.parameters[index], self._stopped[index]
            if concept.keep_std:
                self._restore_std(parameters)
            if concept.norm_stop is None:
                continue

            # A concept that has stopped gets its last values back, whatever the optimizer did.
            for p, last in zip(parameters, self._last_values[index], strict=True):
                p.copy_(torch.where(stopped, last, p))
                last.copy_(p)
            lengths = [torch.linalg.vector_norm(p, dim=-1).flatten() for p in parameters]
            stopped.logical_or_(torch.cat(lengths).mean() >= concept.norm_stop)

    def _restore_std(self, parameters: Sequence[nn.Parameter]) -> None:
        """Scale each vector to the standard deviation of the model's own embeddings."""
        for i, p in enumerate(parameters):
            # The parameters of a word are in the order of the text encoders.
            wanted = self._existing_stds[i % len(self._existing_stds)]
            std = p.std(-1, keepdim=True).clamp(min=1e-12)
            p.mul_(torch.where(std > 0, wanted / std, 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        """The vectors and which concepts have stopped, for checkpoints."""
        state = {f"vectors.{name}": p.detach() for name, p in self.vocabulary.named_parameters()}
        for i, stopped in enumerate(self._stopped):
            state[f"stopped.{i}"] = stopped.float()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, p in self.vocabulary.named_parameters():
            p.copy_(state[f"vectors.{name}"])
        for i, stopped in enumerate(self._stopped):
            stopped.copy_(state[f"stopped.{i}"].bool())
        for parameters, last_values in zip(self.parameters, self._last_values, strict=True):
            for p, last in zip(parameters, last_values, strict=True):
                last.copy_(p)
