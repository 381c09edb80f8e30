"""Conditions from training to pictures: a kind that is defined here, outside of the package, and has parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorasmith.conditions import Condition, ConditionEncoder
from lorasmith.conditions.attach import ConditionSet, attached_conditions
from lorasmith.conditions.file import conditions_file, load_conditions
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import SteeredConditioning, steer
from lorasmith.families.stable_diffusion.steering import Residuals
from lorasmith.formats.read import load as load_lora_file
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.prompts import parse_line, read_prompts
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from lorasmith.training.config import load_config
from lorasmith.training.run import Run
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import prepare_batch
from lorasmith.training.step.loop import fit


class AddedEncoder(ConditionEncoder):
    """Adds a linear map of the picture to the latents; at the start it adds nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, channels, 1)
        for parameter in self.map.parameters():
            nn.init.zeros_(parameter)
        self.seen: list[Tensor] = []

    def forward(
        self, picture: Tensor, x_t: Tensor, t: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        self.seen.append(picture)
        return x_t + self.map(picture), conditioning


class Added(Condition):
    kind: Literal["test_added"] = "test_added"

    def build(self, family: Family) -> AddedEncoder:
        return AddedEncoder(family.latent_channels)


class TokensEncoder(ConditionEncoder):
    """The mean colour as a token of the text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(3, width)

    def forward(
        self, picture: Tensor, x_t: Tensor, t: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        return x_t, conditioning.with_tokens(self.map(picture.mean((2, 3)))[:, None])


class Tokens(Condition):
    kind: Literal["test_tokens"] = "test_tokens"

    def build(self, family: Family) -> TokensEncoder:
        return TokensEncoder(family.context_width)


@pytest.fixture
def config(pictures: Callable[..., Path], bases: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """The config of a run of 4 steps on 4 images with pictures of both conditions, with changes."""
    images = pictures(4)
    for name in ("hint", "mood"):
        (tmp_path / name).mkdir()
    for i, path in enumerate(sorted(images.glob("*.png"))):
        size = Image.open(path).size
        values = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "hint" / path.name)
        Image.new("RGB", size, (60 * i, 0, 90)).save(tmp_path / "mood" / path.name)

    def make(output: str = "run", **changes: Any) -> Any:
        folders = {"hint": str(tmp_path / "hint"), "mood": str(tmp_path / "mood")}
        table: dict[str, Any] = {
            "base": str(bases(changes.pop("kind", "sd1"))),
            "output": str(tmp_path / output),
            "name": "garp",
            "steps": 4,
            "device": "cpu",
            "data": {
                "images": str(images),
                "condition_images": folders,
                "resolution": 64,
                "batch_size": 2,
                "transforms": [{"kind": "flip"}],
            },
            "conditions": [
                {"kind": "test_added", "name": "hint", "lr": 0.01},
                {"kind": "test_tokens", "name": "mood", "lr": 0.01},
            ],
            "adapter": {"kind": "lora", "rank": 2, "layers": "attention", "dropout": 0.1},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "log": {"tensorboard": False},
        }
        return load_config(table | changes)

    return make


def red(folder: Path) -> Path:
    path = folder / "red.png"
    Image.new("RGB", (64, 64), (255, 0, 0)).save(path)
    return path


@pytest.fixture
def closing() -> Any:
    """Runs that are closed at the end of the test."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        run.events.close()
        run.conditions.detach()
        run.adapters.detach()


def test_encoders_are_trained_and_their_pictures_are_those_of_the_batch(config: Any, closing: list[Run]) -> None:
    run = build_run(config())
    closing.append(run)
    before = {name: tensor.clone() for name, tensor in run.conditions.state_dict().items()}
    batch = prepare_batch(run, run.dataset.load(run.dataset.epoch(0)[0]))
    assert batch.conditioning is not None
    assert torch.equal(batch.conditioning["condition.hint"], batch.conditions["condition.hint"])
    fit(run)
    changed = {name for name, tensor in run.conditions.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(before)
    names = [group["name"] for group in run.optimizer.param_groups]
    assert names[-2:] == ["condition hint", "condition mood"]
    hint = attached_conditions(run.family)[0].encoder
    assert isinstance(hint, AddedEncoder)
    assert all(float(picture.std()) > 0.01 for picture in hint.seen)


@pytest.mark.slow
def test_the_base_gets_no_conditions(config: Any, closing: list[Run]) -> None:
    run = build_run(config())
    closing.append(run)
    fit(run)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    conditioning = run.family.encode_text(["a cat"])
    with torch.no_grad():
        trained = run.family.predict(x, t, conditioning)
        with run.as_base():
            as_base = run.family.predict(x, t, conditioning)
        with run.family.as_base():
            assert torch.equal(run.family.predict(x, t, conditioning), as_base)
        with run.adapters.enabled(False):
            assert torch.equal(run.family.network_output(x, t, conditioning), as_base)
    assert not torch.allclose(trained, as_base, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_resumed_run_has_the_same_encoders_bit_for_bit(config: Any, tmp_path: Path, ema: float) -> None:
    every = {"checkpoint": {"every_steps": 2}, "ema": ema}
    whole = train(config("whole", **every))
    train(config("half", **every | {"steps": 4}))
    # as if it had been stopped after two steps
    for later in (tmp_path / "half/checkpoints").glob("step-00000004"):
        later.rename(tmp_path / "later")
    resumed = train(config("half", **every), resume=tmp_path / "half")
    assert whole.file is not None
    assert resumed.file is not None
    for one, other in ((whole.file, resumed.file), (conditions_file(whole.file), conditions_file(resumed.file))):
        first, second = load_file(one), load_file(other)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_checkpoint_with_other_conditions_is_refused(config: Any, tmp_path: Path) -> None:
    train(config(checkpoint={"every_steps": 2}))
    (tmp_path / "run/checkpoints/step-00000004").rename(tmp_path / "later")
    other = [{"kind": "test_tokens", "name": "hint"}, {"kind": "test_tokens", "name": "mood"}]
    with pytest.raises(LorasmithError, match="other conditions"):
        train(config(conditions=other), resume=tmp_path / "run")


@pytest.mark.slow
def test_the_lora_file_is_an_ordinary_one_and_the_encoders_are_beside_it(config: Any, tmp_path: Path) -> None:
    result = train(config(export={"every_steps": 2}))
    assert result.file is not None
    assert load_lora_file(result.file).tensors.keys() == load_file(result.file).keys()
    assert all(key.startswith("lora_unet_") for key in load_file(result.file))
    encoders = load_file(conditions_file(result.file))
    assert sorted(encoders) == ["hint.map.bias", "hint.map.weight", "mood.map.bias", "mood.map.weight"]
    assert (tmp_path / "run/garp-000002.conditions.safetensors").is_file()


def test_pictures_depend_on_the_condition_and_a_missing_one_is_said(
    config: Any, loaded: Callable[[str], Family], tmp_path: Path
) -> None:
    result = train(config())
    assert result.file is not None
    family = loaded("sd1")
    said: list[str] = []

    class Told(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    plain = Request("a cat", steps=2, width=64, height=64)
    shown = Request("a cat", steps=2, width=64, height=64, conditions={"hint": red(tmp_path)})
    loras = Loras(family)
    loras.get(result.file)
    with loras.attached([LoraUse(result.file)]):
        together = sample(family, [plain, shown], progress=Told())
        alone = sample(family, [shown])[0]
        unguided = sample(family, [Request("a cat", steps=2, cfg=1, width=64, height=64)])
    assert unguided[0].pixels.isfinite().all()
    assert not torch.allclose(together[0].pixels, together[1].pixels, atol=1e-3)
    torch.testing.assert_close(together[1].pixels, alone.pixels, atol=2e-3, rtol=0)
    assert any("condition hint: 1 of 2 pictures are drawn with its empty value" in line for line in said)
    assert any("condition mood: all pictures" in line for line in said)
    assert family.input_changes == ()


@pytest.mark.slow
def test_both_halves_of_guidance_get_the_picture(config: Any, closing: list[Run], tmp_path: Path) -> None:
    run = build_run(config())
    closing.append(run)
    encoder = attached_conditions(run.family)[0].encoder
    assert isinstance(encoder, AddedEncoder)
    sample(run.family, [Request("a cat", steps=1, width=64, height=64, conditions={"hint": red(tmp_path)})])
    (picture,) = encoder.seen
    assert picture.shape == (2, 3, 8, 8)
    assert torch.equal(picture[0], picture[1])
    assert picture[0].mean((1, 2)).tolist() == [1, 0, 0]


@pytest.mark.slow
def test_a_file_at_strength_0_brings_no_conditions(config: Any, loaded: Callable[[str], Family]) -> None:
    result = train(config())
    assert result.file is not None
    loras = Loras(loaded("sd1"))
    with loras.attached([LoraUse(result.file, 0.0)]):
        assert attached_conditions(loaded("sd1")) == []
    assert loras.condition_names([LoraUse(result.file)]) == ("hint", "mood")


@pytest.mark.slow
def test_a_file_of_conditions_that_does_not_fit_is_named(
    config: Any, loaded: Callable[[str], Family], tmp_path: Path
) -> None:
    result = train(config())
    assert result.file is not None
    path = conditions_file(result.file)
    assert load_conditions(loaded("sd1"), path).names == ("hint", "mood")
    with pytest.raises(LorasmithError, match=r"garp\.conditions\.safetensors: does not fit this sdxl base"):
        load_conditions(loaded("sdxl"), path)
    settings = {"lorasmith.conditions": '[{"kind": "nobodys"}]', "lorasmith.plugins": '["their_plugin"]'}
    save_file({"nobodys.w": torch.zeros(1)}, path, settings)
    with pytest.raises(LorasmithError, match=r"(?s)no condition is called.*--plugin their_plugin"):
        load_conditions(loaded("sd1"), path)
    path.write_bytes(b"no tensors")
    with pytest.raises(LorasmithError, match="cannot be read"):
        load_conditions(loaded("sd1"), path)


@pytest.mark.slow
def test_previews_take_pictures_of_conditions_from_their_lines(config: Any, tmp_path: Path) -> None:
    path = red(tmp_path)
    prompts = [f"a cat --cn hint={path}", "a cat"]
    train(config(preview={"prompts": prompts, "steps": 2}))
    first, second = (tmp_path / "run/previews/step-00000004" / f"0{i}.png" for i in range(2))
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))
    assert "Conditions: hint red.png" in Image.open(first).info["parameters"]
    with pytest.raises(LorasmithError, match=r"condition hnt: .*did you mean \"hint\""):
        train(config("other", preview={"prompts": [f"a cat --cn hnt={path}"]}))


def test_files_of_prompts_name_pictures_of_conditions(tmp_path: Path) -> None:
    path = red(tmp_path)
    file = tmp_path / "prompts.toml"
    file.write_text(f'[prompt]\n[[prompt.subset]]\nprompt = "a cat"\nconditions = {{ hint = "{path.as_posix()}" }}\n')
    assert read_prompts(file) == [{"prompt": "a cat", "conditions": {"hint": path}}]
    assert parse_line("a cat --cn a=b.png,c=d.png")["conditions"] == {"a": Path("b.png"), "c": Path("d.png")}
    with pytest.raises(LorasmithError, match=r"--cn is 'red\.png', which is not of the form NAME=PICTURE"):
        parse_line("a cat --cn red.png")
    with pytest.raises(LorasmithError, match="name an existing picture"):
        Request("a cat", conditions={"hint": tmp_path / "no.png"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdxl", "sd2"])
def test_further_tokens_go_to_every_family_of_stable_diffusion(config: Any, kind: str) -> None:
    result = train(config(kind=kind, steps=2))
    assert result.loss is not None


def test_names_of_conditions_are_checked(config: Any) -> None:
    with pytest.raises(ConfigError, match="another condition is called hint too"):
        config(conditions=[{"kind": "test_added", "name": "hint"}, {"kind": "test_tokens", "name": "hint"}])
    with pytest.raises(ConfigError, match=r"(?s)condition_images.mood: is not a condition.*allowed: hint"):
        config(conditions=[{"kind": "test_added", "name": "hint"}])
    with pytest.raises(ConfigError, match="letters, digits"):
        config(conditions=[{"kind": "test_added", "name": "a hint"}])


def test_initial_weights_follow_from_the_seed(family: Family) -> None:
    state = torch.get_rng_state()
    first, second, third = (ConditionSet.create(family, [Tokens()], seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(first["test_tokens.map.weight"], second["test_tokens.map.weight"])
    assert not torch.equal(first["test_tokens.map.weight"], third["test_tokens.map.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_further_tokens_come_after_those_of_every_layer() -> None:
    tokens = torch.ones(2, 3, 5)
    plain = Conditioning({"context": torch.zeros(2, 7, 5)}).with_tokens(tokens)
    assert plain["context"].shape == (2, 10, 5)
    layered = Conditioning({"context": torch.zeros(2, 4, 7, 5, dtype=torch.bfloat16)}).with_tokens(tokens)
    assert layered["context"].shape == (2, 4, 10, 5)
    assert layered["context"].dtype == torch.bfloat16
    assert layered["context"][:, :, 7:].eq(1).all()


def test_added_tensors_do_not_take_controls_away() -> None:
    steered = steer(Conditioning({"context": torch.zeros(1, 7, 5)}), residuals=Residuals(middle=torch.ones(1)))
    changed = steered.with_tokens(torch.ones(1, 1, 5))
    assert isinstance(changed, SteeredConditioning)
    assert changed.residuals is steered.residuals


def test_a_condition_adds_its_residuals_to_those_of_a_control() -> None:
    level, middle = torch.full((1, 2, 4, 4), 2.0), torch.ones(1)
    control = steer(Conditioning({"context": torch.zeros(1, 7, 5)}), residuals=Residuals(middle=middle, levels=[level]))
    both = steer(control, residuals=Residuals(levels=[level])).residuals
    assert both is not None
    assert both.levels[0].eq(4).all()
    assert both.middle is middle
