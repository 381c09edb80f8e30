"""ai-toolkit's files: jobs of the four families, what each key becomes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from lorasmith.adapters.attach import matches
from lorasmith.api import read_config
from lorasmith.compat.ai_toolkit.script import AiToolkit
from lorasmith.compat.detect import command_of
from lorasmith.compat.script import Conversion
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.families.load import open_base
from lorasmith.training.config import load_config
from tests.transformer_bases import write_flux

Convert = Callable[..., Conversion]
MODELS: dict[str, dict[str, Any]] = {
    "sd1": {"name_or_path": "tiny-sd"},
    "sdxl": {"name_or_path": "sdxl.safetensors", "is_xl": True},
    "sd3": {"name_or_path": "org/sd35", "is_v3": True, "quantize": True},
    "flux": {"name_or_path": "org/flux-dev", "is_flux": True, "quantize": True},
}


def job(model: str = "flux", /, **sections: Any) -> dict[str, Any]:
    """A job as the examples of the program have it; `sections` are merged over its own."""
    flow = model in ("sd3", "flux")
    process: dict[str, Any] = {
        "type": "sd_trainer",
        "training_folder": "output",
        "device": "cuda:0",
        "trigger_word": "garp",
        "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
        "save": {"dtype": "float16", "save_every": 250, "max_step_saves_to_keep": 4, "push_to_hub": False},
        "datasets": [
            {
                "folder_path": "photos",
                "caption_ext": "txt",
                "caption_dropout_rate": 0.05,
                "shuffle_tokens": False,
                "cache_latents_to_disk": True,
                "resolution": [512, 768, 1024],
            }
        ],
        "train": {
            "batch_size": 1,
            "steps": 2000,
            "gradient_accumulation_steps": 1,
            "train_unet": True,
            "train_text_encoder": False,
            "gradient_checkpointing": True,
            "noise_scheduler": "flowmatch" if flow else "ddpm",
            "optimizer": "adamw8bit",
            "lr": "1e-4",
            "ema_config": {"use_ema": True, "ema_decay": 0.99},
            "dtype": "bf16",
        },
        "model": MODELS[model],
        "sample": {
            "sampler": "flowmatch" if flow else "ddpm",
            "sample_every": 250,
            "sample_start_step": 0,
            "width": 1024,
            "height": 1024,
            "prompts": ["a photo of [trigger]", "[name] at sea --seed 7"],
            "neg": "",
            "seed": 42,
            "walk_seed": True,
            "guidance_scale": 4,
            "sample_steps": 20,
        },
    }
    for name, section in sections.items():
        process[name] = {**process.get(name, {}), **section} if isinstance(section, dict) else section
    config = {"name": "my_lora", "process": [process]}
    return {"job": "extension", "config": config, "meta": {"name": "[name]", "version": "1.0"}}


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "0.png")

    def run(model: str = "flux", /, **sections: Any) -> Conversion:
        Path("my.yaml").write_text(yaml.safe_dump(job(model, **sections)))
        script = AiToolkit()
        parsed = script.parse(["my.yaml"])
        found = script.convert(parsed)
        found.notes[:0] = parsed.warnings
        load_config(found.config)
        return found

    return run


@pytest.mark.parametrize("model", MODELS)
def test_jobs_of_the_four_families(convert: Convert, model: str) -> None:
    found = convert(model)
    config = load_config(found.config)
    assert (str(config.output), config.name, config.trigger) == ("output/my_lora", "my_lora", ("garp",))
    assert (config.steps, config.precision, config.ema, config.seed) == (2000, "bf16", 0.99, 0)
    assert [subset.resolution for subset in config.data.subsets] == [512, 768, 1024]
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.text_lr == 0
    assert config.export.step_name == "{name}_{step:09d}"
    assert (config.export.every_steps, config.export.keep, config.export.dtype) == (250, 4, "fp16")
    assert not any("unknown key" in note for note in found.notes)
    optimizer: Any = config.optimizer
    assert found.config["optimizer"].get("eps", found.config["optimizer"].get("args", {}).get("eps")) == 1e-6, optimizer
    expected = "peft" if model in ("sd3", "flux") else None
    assert found.config["export"].get("format") == expected


def test_t_of_stable_diffusion_is_what_the_scheduler_has(convert: Convert) -> None:
    """Index i of 1 to 997 of a table from 999 down to 0."""
    assert convert("sd1").config["objective"]["timesteps"] == {"kind": "uniform", "min": 1, "max": 999}
    content = convert("sd1", train={"content_or_style": "content"}).config["objective"]["timesteps"]
    assert (content["kind"], content["prefer"]) == ("quantile", "noise")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, {"timesteps": {"kind": "logit_normal"}}),
        ({"timestep_type": "linear"}, {"timesteps": {"kind": "uniform"}}),
        ({"linear_timesteps": True}, {"timesteps": {"kind": "uniform"}, "weightings": ["bell"]}),
        (
            {"linear_timesteps2": True},
            {"timesteps": {"kind": "uniform"}, "weightings": [{"kind": "bell", "half": True}]},
        ),
        ({"timestep_type": "weighted"}, {"timesteps": {"kind": "uniform"}, "weightings": ["flex_curve"]}),
        (
            {"timestep_type": "weighted", "linear_timesteps2": True},
            {"timesteps": {"kind": "uniform"}, "weightings": ["flex_curve"]},
        ),
        ({"timestep_type": "shift"}, {"timesteps": {"kind": "shifted", "of": {"kind": "uniform"}, "shift": "model"}}),
        (
            {"content_or_style": "style"},
            {"timesteps": {"kind": "quantile", "of": "logit_normal", "prefer": "data", "min": 0, "max": 1000}},
        ),
        (
            {"loss_type": "mae", "noise_offset": 0.1},
            {
                "timesteps": {"kind": "logit_normal"},
                "loss": "l1",
                "noise": [{"kind": "offset", "strength": 0.1}],
            },
        ),
    ],
)
def test_objectives_of_flow_matching(convert: Convert, train: dict[str, Any], expected: dict[str, Any]) -> None:
    assert convert("flux", train=train).config["objective"] == {"kind": "denoising", **expected}


def test_captions(convert: Convert) -> None:
    transforms = convert(datasets=[{"folder_path": "photos", "caption_dropout_rate": 0.1, "flip_x": True}]).config[
        "data"
    ]["subsets"][0]["transforms"]
    assert [step["kind"] for step in transforms] == ["replace", "caption_dropout", "trigger", "flip"]
    assert transforms[0]["words"] == {"[trigger]": "garp", "[name]": "garp"}
    own = [{"folder_path": "photos", "trigger_word": "mia", "caption_dropout_rate": 0.1, "shuffle_tokens": True}]
    subset = convert(datasets=own, trigger_word=None).config["data"]["subsets"][0]
    assert [step["kind"] for step in subset["transforms"]] == ["shuffle", "replace", "trigger", "caption_dropout"]
    regular = [{"folder_path": "photos", "is_reg": True, "loss_multiplier": 0.5}]
    subset = convert(datasets=regular, train={"reg_weight": 0.5}).config["data"]["subsets"][0]
    assert subset["loss_weight"] == 0.25
    assert "trigger" not in [step["kind"] for step in subset["transforms"]]


def test_previews(convert: Convert) -> None:
    preview = convert().config["preview"]
    assert preview["prompts"] == ["a photo of garp --d 42", "my_lora at sea --d 7"]
    assert (preview["cfg"], preview["sampler"], preview["at_start"]) == (1.0, "euler", True)
    assert "preview" not in convert(train={"disable_sampling": True}).config
    items = {"prompts": None, "samples": [{"prompt": "x", "width": 512, "seed": 3, "neg": "bad"}]}
    assert convert("sd1", sample=items).config["preview"]["prompts"] == ["x --d 3 --n bad --w 512"]


def test_networks(convert: Convert) -> None:
    lokr = convert(network={"type": "lokr", "lokr_factor": 8}).config["adapter"]
    assert (lokr["kind"], lokr["factor"], lokr["full_matrix"]) == ("lokr", 8, True)
    assert convert(network={"linear_alpha": 1}).config["adapter"]["alpha"] == 16
    sd = convert("sd1", network={"linear_alpha": 1, "conv": 8}).config["adapter"]
    assert (sd["alpha"], sd["conv_rank"], sd["conv_alpha"]) == (1, 8, 8)


def test_layers_of_flux(convert: Convert, tmp_path: Path) -> None:
    names = [spec.name for spec in open_base(write_flux(tmp_path / "base")).layers() if spec.name.startswith("tr")]

    def chosen(**network: Any) -> set[str]:
        layers = convert(network=network).config["adapter"]["layers"]
        excluded = [pattern[1:] for pattern in layers if pattern.startswith("!")]
        included = [pattern for pattern in layers if not pattern.startswith("!")]
        return {name for name in names if matches(name, included) and not matches(name, excluded)}

    assert chosen() == {name for name in names if "transformer_blocks" in name}
    assert chosen(transformer_only=False) == set(names)
    kwargs = {"only_if_contains": ["transformer.single_transformer_blocks.1.proj_out"]}
    assert chosen(network_kwargs=kwargs) == {"transformer.single_transformer_blocks.1.proj_out"}
    ignored = chosen(network_kwargs={"ignore_if_contains": ["norm"]})
    assert ignored == {name for name in names if "transformer_blocks" in name and "norm" not in name}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"arch": "qwen_image"}}, '"qwen_image": this family of models is not trained here'),
        ({"model": {"is_lumina2": True}}, "this family of models is not trained here"),
        ({"model": {"use_text_encoder_2": False}}, "both text encoders of SDXL"),
        ({"model": {"assistant_lora_path": "ostris/adapter"}}, r"no such file[\s\S]*download it"),
        ({"model": {"assistant_lora_path": "ostris/adapter"}}, r"model\.assistant_lora_path: ostris/adapter: no such"),
        ({"train": {"timestep_type": "next_sample"}}, r'"next_sample" is not supported'),
        ({"train": {"min_snr_gamma": 5}}, "the original stops at it"),
        ({"train": {"optimizer": "automagic"}}, r'"automagic" is not supported'),
        ({"train": {"loss_type": "wavelet"}}, "mse, mae, pseudo_huber"),
        ({"train": {"ema_config": {"use_ema": True, "use_feedback": True}}}, r"use_feedback: is not supported"),
        ({"train": {"diff_output_preservation": True}}, r"data\.subsets\.preserve"),
        ({"train": {"validation_config": {"split": 0.1}}}, r"train\.validation_config[\s\S]*data\.validation"),
        ({"train": {"steps": "many"}}, r"train\.steps: found 'many'"),
        ({"network": {"type": "lorm"}}, "lora, locon, lokr, dora"),
        ({"network": {"lorm": {"extract_mode": "fixed"}}}, r"network\.lorm: is not supported"),
        ({"network": {"network_kwargs": {"rank_dropout": 0.1}}}, r"network_kwargs\.rank_dropout"),
        ({"datasets": [{"folder_path": "photos", "num_frames": 8}]}, "videos and sound"),
        ({"datasets": [{"folder_path": "photos", "control_path": "c"}]}, "control images"),
        ({"datasets": []}, "there are no images"),
        ({"sample": {"prompts": ["a --m -5"]}}, "the flag --m"),
        ({"type": "slider"}, '"slider" is not trained here'),
        ({"slider": {"targets": []}, "adapter": {"type": "ip"}}, "adapter: is not supported"),
    ],
)
def test_what_is_refused_is_named(convert: Convert, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert("flux", **sections)


def test_keys_without_effect_and_unknown_ones_are_noted(convert: Convert) -> None:
    notes = convert("flux", train={"sdp": True, "stepss": 3}, model={"low_vram": True}).notes
    assert any("model.low_vram has no effect here" in note for note in notes)
    assert any('unknown key train.stepss is ignored. did you mean "train.steps"?' in note for note in notes), notes


def test_keys_of_data_sets_are_noted_only_where_one_has_another_value(convert: Convert) -> None:
    first, second = {"folder_path": "photos", "cache_latents": False}, {"folder_path": "photos"}
    assert not any("datasets.cache_latents" in note for note in convert(datasets=[first, second]).notes)
    notes = convert(datasets=[first, second | {"cache_latents": True}]).notes
    assert len([note for note in notes if note.startswith("datasets.cache_latents has no effect here")]) == 1, notes


def test_a_data_set_at_several_resolutions_has_each_problem_once(convert: Convert) -> None:
    dataset = {"resolution": [512, 768], "replacements": ["a cat"], "folder_path": "list.json"}
    with pytest.raises(ConfigError) as caught:
        convert(datasets=[dataset])
    assert [problem.where for problem in caught.value.problems] == ["datasets.0.folder_path", "datasets.replacements"]


def test_accumulation_that_counts_batches(convert: Convert) -> None:
    config = convert(train={"gradient_accumulation_steps": 4}).config
    assert (config["steps"], config["accumulation"]) == (500, 4)


def test_files(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, a suffix that is left away, another name, an environment variable, and other jobs."""
    monkeypatch.setenv("MY_FOLDER", "elsewhere")
    content = job()
    content["config"]["process"][0]["training_folder"] = "${MY_FOLDER}"
    Path("mine.json").write_text(json.dumps(content))
    found = AiToolkit().convert(AiToolkit().parse(["mine", "--name", "other", "-r"]))
    assert found.config["output"] == "elsewhere/other"
    monkeypatch.delenv("MY_FOLDER")
    with pytest.raises(LorasmithError, match="MY_FOLDER is not set"):
        AiToolkit().parse(["mine.json"])
    Path("gen.yaml").write_text(yaml.safe_dump({"job": "generate", "config": {"name": "x", "process": [{}]}}))
    with pytest.raises(ConfigError, match='"generate" does not train a LoRA'):
        AiToolkit().parse(["gen.yaml"])
    with pytest.raises(LorasmithError, match="takes one file"):
        AiToolkit().parse([])
    with pytest.raises(LorasmithError, match="unknown option --steps"):
        AiToolkit().parse(["mine.json", "--steps", "3"])


def test_files_say_what_they_are_for(convert: Convert, tmp_path: Path) -> None:
    Path("job.yaml").write_text(yaml.safe_dump(job()))
    Path("job.json").write_text(json.dumps(job()))
    Path("mos.yml").write_text("name: x\ndatasets: {train: {}}\n")
    Path("flux.toml").write_text('network_module = "networks.lora_flux"\npretrained_model_name_or_path = "x"\n')
    Path("sd3.toml").write_text("[a]\ntraining_shift = 3\npretrained_model_name_or_path = 'x'\n")
    Path("sd.toml").write_text('network_module = "networks.lora"\npretrained_model_name_or_path = "x"\n')
    found = {path.name: command_of(Path(path.name))[0] for path in tmp_path.iterdir() if path.is_file()}
    assert found == {
        "job.yaml": "ai-toolkit",
        "job.json": "ai-toolkit",
        "mos.yml": "train_edlora",
        "flux.toml": "flux_train_network",
        "sd3.toml": "sd3_train_network",
        "sd.toml": "train_network",
    }
    for name, script in (("flux.toml", "flux_train_network"), ("job.json", "ai-toolkit"), ("sd.toml", "train_network")):
        with pytest.raises(ConfigError, match=f"lorasmith as {script} "):
            read_config(name)
    for name, script in (("job.yaml", "ai-toolkit"), ("mos.yml", "train_edlora")):
        with pytest.raises(LorasmithError, match=f"lorasmith as {script} "):
            read_config(name)


def test_options_occur_once_and_say_why() -> None:
    names = [option.name for option in AiToolkit.options]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    assert all(option.note for option in AiToolkit.options if option.state != "same")


def test_flow_matching_on_another_model_is_refused(convert: Convert) -> None:
    with pytest.raises(ConfigError, match="flowmatch, with a model that is not of flow matching"):
        convert("sd1", train={"noise_scheduler": "flowmatch"})
