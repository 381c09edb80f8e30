"""Pictures as other programs draw them: noise, schedules, solvers and emphasis against values that are not ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion import comfy_emphasis, emphasis
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.sampling import philox, programs
from lorasmith.sampling.png_metadata import format_parameters
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from lorasmith.sampling.settings import SampleSettings
from lorasmith.sampling.sigma_sampler import Discrete
from lorasmith.training.hooks.preview import Previews

SCHEDULE = NoiseSchedule.scaled_linear()


def test_noise_is_that_of_torch_on_a_gpu() -> None:
    # torch.manual_seed(0); torch.randn(3, 4, device="cuda"), as A1111's own imitation documents it
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    torch.testing.assert_close(philox.randn((3, 4), 0), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_noise_of_large_seeds_and_of_all_elements_is_normal() -> None:
    noise = philox.randn((4, 64, 64), 2**40 + 3)
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03
    assert not torch.equal(noise, philox.randn((4, 64, 64), 3))


def test_comfyui_noise_is_the_generator_of_the_seed(family: Family) -> None:
    expected = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))[0]
    assert torch.equal(programs.find("comfyui").noise((4, 8, 8), 7), expected)


def test_sigmas_of_stable_diffusion() -> None:
    model = Discrete(SCHEDULE.alphas_cumprod)
    assert model.sigma(999) == pytest.approx(14.6146, abs=1e-3)
    assert model.sigma(0) == pytest.approx(0.0292, abs=1e-4)
    assert model.t(model.sigma(423.25)) == pytest.approx(423.25, abs=1e-3)
    assert model.nearest_t(model.sigma(423.25)) == 423
    # arXiv 2206.00364, equation 5
    largest, smallest = model.sigma(999), model.sigma(0)
    expected = [(largest ** (1 / 7) + i / 9 * (smallest ** (1 / 7) - largest ** (1 / 7))) ** 7 for i in range(10)]
    sampler = programs.find("a1111").make_sampler(SCHEDULE, "epsilon", 10)
    assert sampler.sigmas == pytest.approx([*expected, 0.0])


def test_steps_of_comfyui_are_equal_in_t_and_whole_for_the_network() -> None:
    sampler = programs.find("comfyui").make_sampler(SCHEDULE, "epsilon", 20)
    model = Discrete(SCHEDULE.alphas_cumprod)
    assert [model.t(sigma) for sigma in sampler.sigmas[:-1]] == pytest.approx(np.linspace(999, 0, 20), abs=1e-3)
    assert sampler.timesteps.tolist() == pytest.approx([round(t) for t in np.linspace(999, 0, 20)])
    assert sampler.init_noise_sigma == pytest.approx(math.sqrt(1 + 14.6146**2), abs=1e-3)


def run(name: str, steps: int, spread: float, prediction: str = "epsilon") -> Tensor:
    """Sample with the exact prediction for data of N(0, spread^2); the exact answer is x sigma-free."""
    sampler = programs.find(name).make_sampler(SCHEDULE, prediction, steps)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64) * sampler.sigmas[0]
    start = x.clone()
    for index, t in enumerate(sampler.timesteps):
        sigma = sampler.sigmas[index]
        noised = sampler.scale_model_input(x, t) * math.sqrt(1 + sigma**2)
        denoised = noised * spread**2 / (spread**2 + sigma**2)
        noise = (noised - denoised) / sigma
        output = noise if prediction == "epsilon" else (noise - sigma * denoised) / math.sqrt(1 + sigma**2)
        x = sampler.step(output, t, x)[0]
    # the probability flow of a Gaussian: x(0) = x(s) spread / sqrt(spread^2 + s^2)
    return x / (start * spread / math.sqrt(spread**2 + sampler.sigmas[0] ** 2))


@pytest.mark.parametrize("name", programs.PROGRAMS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_solvers_reach_the_exact_solution_for_gaussian_data(name: str, prediction: str) -> None:
    errors = [float((run(name, steps, 0.5, prediction)[:4] - 1).abs().max()) for steps in (10, 40, 160)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


def test_a1111s_solver_is_of_higher_order() -> None:
    few, many = (float((run("a1111", steps, 0.5)[:4] - 1).abs().max()) for steps in (20, 80))
    assert few < 0.02
    assert many < few / 6


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a (red) hat", [("a ", 1.0), ("red", 1.1), (" hat", 1.0)]),
        ("a (red:1.3) hat", [("a ", 1.0), ("red", 1.3), (" hat", 1.0)]),
        # a number replaces what is around it; without one, weights multiply
        ("((red:1.3) hat)", [("red", 1.3), (" hat", 1.1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("[red] BREAK", [("[red] BREAK", 1.0)]),
        (r"garp \(toy\)", [("garp (toy)", 1.0)]),
        ("a (red", [("a ", 1.0), ("(red", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_how_comfyui_reads_brackets(prompt: str, pieces: list[tuple[str, float]]) -> None:
    assert comfy_emphasis.parse(prompt) == [(text, pytest.approx(weight)) for text, weight in pieces]


def test_comfyui_weighs_the_distance_from_an_empty_text(family: Family) -> None:
    plain = comfy_emphasis.encode(family, ["a cat"])[CONTEXT]
    empty = comfy_emphasis.encode(family, [""])[CONTEXT]
    strong = comfy_emphasis.encode(family, ["a (cat:1.5)"])[CONTEXT]
    token = 1 + len(family.tokens("a"))
    torch.testing.assert_close(strong[0, token], empty[0, token] + 1.5 * (plain[0, token] - empty[0, token]))
    torch.testing.assert_close(strong[0, token - 1], plain[0, token - 1])
    # A1111 does something else
    assert not torch.allclose(strong, emphasis.encode(family, ["a (cat:1.5)"])[CONTEXT])


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_pictures_do_not_depend_on_their_batch(family: Family, name: str) -> None:
    size = {"width": 32, "height": 32, "steps": 3, "like": name}
    requests = [Request("a cat", seed=3, **size), Request("a (dog:1.4)", seed=4, **size)]
    together = sample(family, requests)
    for picture, request in zip(together, requests, strict=True):
        torch.testing.assert_close(picture.pixels, sample(family, [request])[0].pixels, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(
        together[0].pixels, sample(family, [Request("a cat", seed=3, **size | {"like": ""})])[0].pixels
    )


def test_settings_take_the_programs_defaults_but_not_over_given_ones() -> None:
    settings = SampleSettings.model_validate({"like": "comfyui"})
    assert (settings.steps, settings.cfg) == (20, 8.0)
    assert SampleSettings.model_validate({"like": "ComfyUI", "cfg": 5}).cfg == 5
    assert Previews.model_validate({"prompts": ["a"], "like": "comfyui"}).cfg == 8.0
    assert Previews.model_validate({"prompts": ["a"]}).cfg is None, "that of the base"


def test_an_unknown_program_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'no program is called "comfiui"; did you mean "?comfyui.*a1111, comfyui'):
        Previews.model_validate({"prompts": ["a"], "like": "comfiui"})
    with pytest.raises(LorasmithError, match="known programs: a1111, comfyui"):
        Request("a", like="invoke")


def test_a_picture_says_what_it_equals(family: Family) -> None:
    request = Request("a cat", like="comfyui", steps=20, cfg=8.0, width=64, height=64)
    text = programs.describe(request)
    assert text == "as ComfyUI with its defaults: euler, schedule normal, 20 steps, cfg 8, clip skip 1"
    assert "except cfg 5" in programs.describe(Request("a", like="a1111", cfg=5.0))
    assert "other programs have other defaults" in programs.describe(Request("a"))
    parameters = format_parameters(sample(family, [Request("a", like="a1111", steps=2, width=64, height=64)])[0])
    assert "Sampler: DPM++ 2M, Schedule type: Karras, Drawn like: A1111" in parameters
