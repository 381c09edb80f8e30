"""`sd3_train_network` and `flux_train_network`: options, objectives beside the original's formulas, layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.attach import matches
from lorasmith.compat.kohya.flow_networks import parse_numbers
from lorasmith.compat.kohya.options.flow import FLUX_OPTIONS, SD3_OPTIONS
from lorasmith.compat.script import Conversion, find_script
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.diffusion.prediction import Velocity
from lorasmith.diffusion.rectified_flow import RectifiedFlow, ResolutionShift
from lorasmith.families.load import open_base
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.step.objectives.denoising import Denoising
from tests.transformer_bases import write_flux, write_sd3

FLUX = {"network_module": "networks.lora_flux", "model_prediction_type": "raw"}
SD3 = {"network_module": "networks.lora_sd3"}
Convert = Callable[..., Conversion]
PATH = RectifiedFlow(resolution_shift=ResolutionShift()).for_latents(64, 48)


def objective(found: Conversion) -> Denoising:
    result = load_config(found.config).objective
    assert isinstance(result, Denoising)
    return result


class Draws:
    """Random numbers that are given: to our samplers as a `StepRng` gives them."""

    def __init__(self, u: Tensor, n: Tensor) -> None:
        self.u, self.n = u, n

    def uniform(self, name: str) -> Tensor:
        return self.u

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.n


U = torch.rand(500, generator=torch.Generator().manual_seed(0))
N = torch.randn(500, generator=torch.Generator().manual_seed(1))


def their_density(scheme: str, mean: float = 0.0, std: float = 1.0, scale: float = 1.29) -> Tensor:
    """compute_density_for_timestep_sampling of sd-scripts and diffusers, with the draws given."""
    if scheme == "logit_normal":
        return (mean + std * N).sigmoid()
    if scheme == "mode":
        return 1 - U - scale * (torch.cos(math.pi * U / 2) ** 2 - 1 + U)
    return U


def their_sd3_sigmas(density: Tensor, shift: float, low: int, high: int) -> Tensor:
    """get_noisy_model_input_and_timesteps of library/sd3_train_utils.py."""
    density = density * shift / (1 + (shift - 1) * density)
    return (density * (high - low) + low).long() / 1000


def their_flux_sigmas(sampling: str, density: Tensor, shift: float, scale: float) -> Tensor:
    """get_noisy_model_input_and_timesteps of library/flux_train_utils.py, for latents of 64 x 48."""
    if sampling == "uniform":
        return U
    sigmoid = (N * scale).sigmoid()
    if sampling == "sigmoid":
        return sigmoid
    if sampling == "shift":
        return sigmoid * shift / (1 + (shift - 1) * sigmoid)
    if sampling == "flux_shift":
        slope = (1.15 - 0.5) / (4096 - 256)
        mu = slope * (64 // 2) * (48 // 2) + 0.5 - slope * 256
        return math.exp(mu) / (math.exp(mu) + (1 / sigmoid - 1))
    # the scheduler's table begins at pure noise
    table = torch.linspace(1000, 1, 1000) / 1000
    table = shift * table / (1 + (shift - 1) * table)
    return table[(density * 1000).long()]


def ours(found: Conversion) -> Tensor:
    sampler: Any = objective(found).timesteps
    return sampler(Draws(U, N), PATH)


@pytest.mark.parametrize("options", [{}, {"min_timestep": 200, "max_timestep": 700}, {"training_shift": 3.0}])
@pytest.mark.parametrize("scheme", ["uniform", "none", "logit_normal", "mode", "cosmap"])
def test_sigmas_of_sd3(convert: Convert, scheme: str, options: dict[str, Any]) -> None:
    found = convert("sd3_train_network", **SD3, weighting_scheme=scheme, logit_mean=0.4, logit_std=0.8, **options)
    low, high = options.get("min_timestep", 0), options.get("max_timestep", 1000)
    theirs = their_sd3_sigmas(their_density(scheme, 0.4, 0.8), options.get("training_shift", 1.0), low, high)
    # theirs is cut to thousandths
    assert bool(((ours(found) - theirs) >= -1e-6).all())
    assert bool(((ours(found) - theirs) <= 1.01e-3).all())


def test_a_shift_and_a_range_of_sd3(convert: Convert) -> None:
    found = convert("sd3_train_network", **SD3, training_shift=2.0, min_timestep=100, max_timestep=300)
    torch.testing.assert_close(ours(found), their_sd3_sigmas(U, 2.0, 100, 300), rtol=0, atol=1.01e-3)


@pytest.mark.parametrize("sampling", ["sigma", "uniform", "sigmoid", "shift", "flux_shift"])
def test_sigmas_of_flux(convert: Convert, sampling: str) -> None:
    values = {"timestep_sampling": sampling, "discrete_flow_shift": 3.1582, "sigmoid_scale": 0.7}
    found = convert("flux_train_network", **FLUX, **values)
    if sampling == "sigma":
        sampler: Any = objective(found).timesteps
        # the original counts from the noise: its u is our 1 - u
        drawn, theirs = sampler(Draws(1 - U, -N), PATH), their_flux_sigmas("sigma", U, 3.1582, 0.7)
        torch.testing.assert_close(drawn, theirs, rtol=0, atol=4e-3)
    else:
        torch.testing.assert_close(ours(found), their_flux_sigmas(sampling, U, 3.1582, 0.7))


@pytest.mark.parametrize("scheme", ["logit_normal", "mode"])
def test_densities_of_flux_count_from_the_noise(convert: Convert, scheme: str) -> None:
    values = {"weighting_scheme": scheme, "logit_mean": 0.5, "discrete_flow_shift": 1.0, "mode_scale": 0.8}
    sampler: Any = objective(convert("flux_train_network", **FLUX, **values)).timesteps
    theirs = their_flux_sigmas("sigma", their_density(scheme, 0.5, 1.0, 0.8), 1.0, 1.0)
    torch.testing.assert_close(sampler(Draws(1 - U, -N), PATH), theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scheme", ["uniform", "sigma_sqrt", "cosmap"])
@pytest.mark.parametrize("script", ["sd3_train_network", "flux_train_network"])
def test_the_loss_is_that_of_x0_times_the_weighting(convert: Convert, script: str, scheme: str) -> None:
    module = SD3 if script.startswith("sd3") else {**FLUX, "model_prediction_type": "sigma_scaled"}
    found = convert(script, **module, weighting_scheme=scheme)
    sigma = torch.tensor([0.01, 0.3, 0.9])
    weight = torch.ones(3)
    for weighting in objective(found).weightings:
        weight = weight * weighting(sigma, PATH, Velocity())
    theirs = {
        "uniform": torch.ones(3),
        "sigma_sqrt": sigma**-2.0,
        "cosmap": 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)),
    }
    # their error is (v (-sigma) + x_t) - x0, that is sigma times the error of v
    torch.testing.assert_close(weight, theirs[scheme] * sigma**2)


def test_defaults_that_differ_between_the_scripts(convert: Convert) -> None:
    flux = convert("flux_train_network", **(FLUX | {"model_prediction_type": None}))
    assert flux.config["guidance"] == 3.5
    assert flux.config["objective"]["timesteps"] == {"kind": "shifted", "of": {"kind": "uniform"}, "shift": 3.0}
    assert flux.config["objective"]["weightings"] == ["x0"]
    assert any("compares x0 with noise - x0 by mistake" in note for note in flux.notes)
    raw = convert("flux_train_network", **FLUX, weighting_scheme="cosmap")
    assert objective(raw).weightings == ()
    assert any("weighting_scheme has no effect" in note for note in raw.notes)
    sd3 = convert("sd3_train_network", **SD3)
    assert sd3.config["text"] == {"t5_tokens": 256}
    assert sd3.config["objective"]["weightings"] == ["x0"]
    assert "guidance" not in sd3.config


@pytest.mark.parametrize(
    ("script", "values", "message"),
    [
        ("flux_train_network", {"model_prediction_type": "additive"}, "raw, sigma_scaled"),
        ("flux_train_network", {"loss_type": "huber"}, "snr cannot be used with loss_type = huber"),
        ("flux_train_network", {"model_prediction_type": "sigma_scaled", "loss_type": "l1"}, "that of x0"),
        ("flux_train_network", {"model_type": "chroma"}, "chroma is another family"),
        ("flux_train_network", {"network_module": "networks.lora"}, "not a network module for this model"),
        ("flux_train_network", {"network_args": ["train_t5xxl=True"]}, "T5 is not trained"),
        ("flux_train_network", {"network_args": ["in_dims=[1,2]"]}, "5 whole numbers"),
        ("flux_train_network", {"network_args": ["train_double_block_indices=3-1"]}, "ranges such as 0-3,7"),
        ("flux_train_network", {"network_args": ["train_blocks=middle"]}, "all, double, single"),
        ("sd3_train_network", {"loss_type": "smooth_l1"}, "that of x0"),
        ("sd3_train_network", {"apply_lg_attn_mask": True}, "not zeroed"),
        ("sd3_train_network", {"bucket_reso_steps": 8, "enable_bucket": True}, "a multiple of 16"),
        ("sd3_train_network", {"pos_emb_random_crop_rate": 0.5}, "middle of the base's grid"),
    ],
)
def test_what_is_refused_is_named(convert: Convert, script: str, values: dict[str, Any], message: str) -> None:
    module = SD3 if script.startswith("sd3") else FLUX
    resolution = {"resolution": "512"}
    with pytest.raises(ConfigError, match=message):
        convert(script, **(module | resolution | values))


@pytest.mark.parametrize(
    ("script", "module", "parts"),
    [
        ("flux_train_network", FLUX, ("clip_l", "t5xxl", "ae")),
        ("sd3_train_network", SD3, ("clip_l", "clip_g", "t5xxl")),
    ],
)
def test_files_of_parts_belong_to_the_base(
    convert: Convert, script: str, module: dict[str, Any], parts: tuple[str, ...]
) -> None:
    found = convert(script, **module, **{part: f"{part}.safetensors" for part in parts})
    assert load_config(found.config).base_parts == tuple(f"{part}.safetensors" for part in parts)


def test_losses_of_flux(convert: Convert) -> None:
    found = convert("flux_train_network", **FLUX, loss_type="huber", huber_schedule="exponential", ip_noise_gamma=0.1)
    config = found.config["objective"]
    assert config["loss"] == {"kind": "huber", "c": 0.1, "scale": 1.0, "schedule": "exponential"}
    assert config["noise"] == [{"kind": "input_perturbation", "gamma": 0.1, "random": False}]


@pytest.mark.parametrize("options", [SD3_OPTIONS, FLUX_OPTIONS])
def test_options_occur_once_and_say_why(options: tuple[Any, ...]) -> None:
    names = [option.name for option in options]
    assert len(names) == len(set(names))
    assert all(option.note for option in options if option.state in ("improved", "no_effect", "refused"))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    bases = {"flux_train_network": write_flux, "sd3_train_network": write_sd3}
    return {
        script: [spec.name for spec in open_base(write(tmp_path_factory.mktemp(script))).layers()]
        for script, write in bases.items()
    }


def chosen(found: Conversion, names: list[str]) -> dict[str, int]:
    """The layers that are trained, with their ranks."""
    config: TrainConfig = load_config(found.config)
    adapter: Any = config.adapter
    included = [pattern for pattern in adapter.layers if not pattern.startswith("!")]
    excluded = [pattern[1:] for pattern in adapter.layers if pattern.startswith("!")]
    trained = [name for name in names if matches(name, included) and not matches(name, excluded)]
    for rule in adapter.overrides:
        assert any(fnmatchcase(name, rule.layers) for name in trained), rule.layers
    return {name: adapter.for_layer(name)[0].rank for name in trained}


def test_all_linear_layers_of_the_blocks_are_trained(convert: Convert, layers: dict[str, list[str]]) -> None:
    """LoRANetwork of lora_flux and lora_sd3: every linear in the blocks, modulation included, and CLIP's."""
    for script, module in (("flux_train_network", FLUX), ("sd3_train_network", SD3)):
        trained = chosen(convert(script, **module, network_dim=8), layers[script])
        expected = {name for name in layers[script] if "transformer_blocks." in name and "norm_" not in name}
        expected |= {name for name in layers[script] if ".self_attn." in name or ".mlp." in name}
        assert set(trained) == expected
        assert set(trained.values()) == {8}


D0, D1 = "transformer.transformer_blocks.0", "transformer.transformer_blocks.1"
S0 = "transformer.single_transformer_blocks.0"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["img_attn_dim=2", "txt_attn_dim=3"],
            {f"{D0}.attn.to_q": 2, f"{D0}.attn.add_q_proj": 3, f"{S0}.attn.to_q": 4},
        ),
        (["img_attn_dim=2", "single_dim=5"], {f"{D1}.attn.to_out.0": 2, f"{S0}.proj_mlp": 5, f"{S0}.attn.to_v": 5}),
        (["img_mlp_dim=2", "txt_mlp_dim=0"], {f"{D0}.ff.net.2": 2, f"{D0}.ff_context.net.2": None}),
        (["img_mod_dim=2", "single_mod_dim=0"], {f"{D0}.norm1.linear": 2, f"{S0}.norm.linear": None}),
        (["train_double_block_indices=1"], {f"{D1}.ff.net.2": 4, f"{D0}.ff.net.2": None, f"{S0}.proj_out": 4}),
        (["train_single_block_indices=none"], {f"{S0}.proj_mlp": None, f"{D0}.ff.net.2": 4}),
        (["train_blocks=single", "img_mod_dim=3"], {f"{S0}.proj_out": 4, f"{D0}.norm1.linear": None}),
        (["in_dims=[2,0,0,0,3]"], {"transformer.x_embedder": 2, "transformer.context_embedder": 3}),
    ],
)
def test_ranks_of_flux(
    convert: Convert, layers: dict[str, list[str]], arguments: list[str], expected: dict[str, int | None]
) -> None:
    found = convert("flux_train_network", **FLUX, network_args=arguments)
    trained = chosen(found, layers["flux_train_network"])
    assert {name: trained.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["context_attn_dim=2", "x_mlp_dim=3"], {f"{D0}.attn.add_k_proj": 2, f"{D0}.ff.net.2": 3}),
        (["x_attn_dim=2", "x_mod_dim=0"], {f"{D0}.attn2.to_q": 2, f"{D0}.norm1.linear": None}),
        (["emb_dims=[0,0,2,0,3,0]"], {"transformer.pos_embed.proj": 2, "transformer.norm_out.linear": 3}),
        (["train_block_indices=0"], {f"{D0}.attn.to_q": 4, f"{D1}.attn.to_q": None}),
    ],
)
def test_ranks_of_sd3(
    convert: Convert, layers: dict[str, list[str]], arguments: list[str], expected: dict[str, int | None]
) -> None:
    trained = chosen(convert("sd3_train_network", **SD3, network_args=arguments), layers["sd3_train_network"])
    assert {name: trained.get(name) for name in expected} == expected


def test_numbers_of_blocks() -> None:
    assert parse_numbers("0-3, 7") == {0, 1, 2, 3, 7}
    with pytest.raises(ValueError, match="5-2"):
        parse_numbers("5-2")


def test_rates_of_the_text_encoders(convert: Convert) -> None:
    """`--text_encoder_lr CLIP-L CLIP-G T5` for SD3; of Flux's two numbers the second is T5's, which is not trained."""
    sd3 = convert("sd3_train_network", **SD3, text_encoder_lr=[1e-5, 2e-5, 0.0]).config
    assert sd3["optimizer"]["text_lr"] == 1e-5
    assert sd3["adapter"]["overrides"] == [{"layers": "te2.*", "lr": 2.0}]
    only_g = convert("sd3_train_network", **SD3, text_encoder_lr=[0.0, 2e-5]).config
    assert only_g["optimizer"]["text_lr"] == 2e-5
    assert "!te1.*" in only_g["adapter"]["layers"]
    flux = convert("flux_train_network", **FLUX, text_encoder_lr=[1e-5, 3e-5])
    assert flux.config["optimizer"]["text_lr"] == 1e-5
    assert "overrides" not in flux.config["adapter"]
    assert not any("text_encoder_lr" in note for note in flux.notes)
    without = convert("flux_train_network", **FLUX, network_train_unet_only=True, text_encoder_lr=[1e-5]).config
    assert without["optimizer"]["text_lr"] == 0


def test_other_network_modules(convert: Convert) -> None:
    oft = convert("flux_train_network", **(FLUX | {"network_module": "networks.oft_flux"}))
    assert oft.config["adapter"]["kind"] == "oft"
    lycoris = {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=8", "conv_dim=4"]}
    adapter = convert("sd3_train_network", **lycoris).config["adapter"]
    assert (adapter["kind"], adapter["factor"]) == ("lokr", 8)
    assert "conv_rank" not in adapter
    with pytest.raises(ConfigError, match="full, attn-mlp"):
        convert("sd3_train_network", **(lycoris | {"network_args": ["preset=attn-only"]}))


def test_unused_options_are_named_in_notes(convert: Convert) -> None:
    notes = convert("sd3_train_network", **SD3, min_snr_gamma=5, noise_offset=0.1).notes
    assert any("min_snr_gamma has no effect here: this script of the original does not use it" in n for n in notes)


def test_the_whole_models_are_refused_by_name() -> None:
    for name in ("sd3_train", "flux_train", "lumina_train_network"):
        with pytest.raises(LorasmithError, match=f"{name} cannot be run here"):
            find_script(name)
