"""The errors of a refit on held-out prompts: of keys and values, and of the denoiser's prediction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.core.rng import torch_generator
from lorasmith.families.base import Conditioning, Family
from lorasmith.fusion.closed_form import Factors
from lorasmith.fusion.inputs import attached_changes
from lorasmith.fusion.layerwise_texts import TextEncodings
from lorasmith.fusion.prompts import HELD_OUT_PRESERVED

TIMES = (900, 600, 300)
"""Training timesteps, of 1000, at which predictions are compared."""
DRAWN_PROMPTS = 4
"""Held-out prompts of each name on which predictions are compared; keys and values are compared on all."""


def key_value_errors(
    encodings: TextEncodings, prompts: Sequence[str], exact_weights: Mapping[str, Tensor], fused: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """|k - k_exact| / |k_exact| by layer: for `collapse`, the mean with the LoRA as it was (`exact_weights`), and for
    `refit`, the mean with the refitted weights (`fused`)."""
    exact_squares = dict.fromkeys(exact_weights, 0.0)
    error_squares = {"collapse": dict.fromkeys(exact_weights, 0.0), "refit": dict.fromkeys(exact_weights, 0.0)}
    for layerwise, mean, from_concept_on in encodings.pairs(prompts):
        h = mean[from_concept_on]
        for i, name in enumerate(exact_weights):
            layer = i // 2  # keys and values of a layer follow each other
            h_layer = layerwise[:, layer][from_concept_on]
            exact = h_layer @ exact_weights[name].T
            exact_squares[name] += sum_of_squares(exact)
            error_squares["collapse"][name] += sum_of_squares(h @ exact_weights[name].T - exact)
            error_squares["refit"][name] += sum_of_squares(h @ fused[name].T - exact)
    return {
        method: {name: ratio(square, exact_squares[name]) for name, square in by_name.items()}
        for method, by_name in error_squares.items()
    }


def prediction_errors(
    encodings: TextEncodings, prompts: Sequence[str], size: int, added: dict[str, Factors]
) -> dict[str, dict[int, float]]:
    """|e - e_exact| / |e_exact - e_empty| of the denoiser's prediction e on noise of `size` pixels, by time.

    For `collapse` and `refit` over a few of the prompts with each name; for `moved` over prompts without the tokens.
    `added`: what the refit adds to keys and values.
    """
    family, side = encodings.family, size // encodings.family.downscale
    clip_skip = encodings.clip_skip
    empty = with_size(family, family.encode_text([""], clip_skip=clip_skip), side)

    # The exact conditioning and the one with the means; without tokens they are the same.
    with_tokens = [prompt.replace("{}", name) for name in encodings.names for prompt in prompts[:DRAWN_PROMPTS]]
    cases = [(*encodings.encode_both([prompt]), True) for prompt in with_tokens]
    for prompt in HELD_OUT_PRESERVED:
        conditioning = family.encode_text([prompt], clip_skip=clip_skip)
        cases.append((conditioning, conditioning, False))

    error_squares: dict[tuple[str, int], float] = defaultdict(float)
    text_squares: dict[tuple[str, int], float] = defaultdict(float)
    for place, (exact, mean, has_tokens) in enumerate(cases):
        exact, mean = with_size(family, exact, side), with_size(family, mean, side)
        noise_shape = (1, family.latent_channels, side, side)
        x = torch.randn(noise_shape, generator=torch_generator(0, "refit", place)).to(family.device)
        for time in TIMES:
            t = torch.full((1,), time, device=family.device)
            exact_prediction = family.predict(x, t, exact)
            # The measure of an error: how much the text changes the prediction at all.
            text_square = sum_of_squares(exact_prediction - family.predict(x, t, empty))
            with attached_changes(family, added, ()):
                refit_square = sum_of_squares(family.predict(x, t, mean) - exact_prediction)

            method = "refit" if has_tokens else "moved"
            error_squares[method, time] += refit_square
            text_squares[method, time] += text_square
            if has_tokens:
                error_squares["collapse", time] += sum_of_squares(family.predict(x, t, mean) - exact_prediction)
                text_squares["collapse", time] += text_square
    return {
        method: {time: ratio(error_squares[method, time], text_squares[method, time]) for time in TIMES}
        for method in ("collapse", "refit", "moved")
    }


def with_size(family: Family, conditioning: Conditioning, side: int) -> Conditioning:
    """The conditioning of an image that is not cropped, with sides of `side` latents."""
    size = torch.tensor([[side * family.downscale] * 2], device=family.device)
    return family.add_sizes(conditioning, size, torch.zeros_like(size), size)


def sum_of_squares(x: Tensor) -> float:
    """|x|^2 in float64."""
    return float(x.double().square().sum())


def ratio(square: float, reference_square: float) -> float:
    """The ratio of two norms from their squares; 0 if the reference is 0."""
    return (square / reference_square) ** 0.5 if reference_square else 0.0
