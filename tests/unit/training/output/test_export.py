"""What a file tells about a run, and what it keeps to itself."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.core.package import assets
from lorasmith.formats.privacy import without_folders
from lorasmith.training import session
from lorasmith.training.config import load_config
from lorasmith.training.session import train


def test_absolute_paths_are_cut_to_their_names() -> None:
    settings = {
        "base": Path("/models/v1-5.safetensors"),
        "vae": "/models/vae.pt",
        "data": {"subsets": [{"images": Path("/data/photos"), "repeats": 2}], "cache_dir": None},
        "output": Path("runs/mia"),
        "merge": ("/loras/a.safetensors:0.8", "C:\\loras\\b.safetensors", "~/c.safetensors"),
        "options": {"x": "/d", "y": "and/or"},
    }
    found = without_folders(settings)
    assert (found["base"], found["vae"]) == ("v1-5.safetensors", "vae.pt")
    assert found["data"] == {"subsets": [{"images": "photos", "repeats": 2}], "cache_dir": None}
    assert found["output"] == Path("runs/mia")
    assert found["merge"] == ["a.safetensors:0.8", "b.safetensors", "c.safetensors"]
    assert found["options"] == {"x": "/d", "y": "and/or"}


def test_an_averaged_run_exports_its_average(pictures: Any, tmp_path: Path) -> None:
    """Not the weights that training goes on with, which come back before the file is written."""
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 5,
        "ema": 0.9,
        "data": {"images": str(pictures(3)), "resolution": 64},
        "adapter": {"rank": 2, "layers": ["*.attn1.to_k"]},
        "optimizer": {"lr": 1e-2},
        "export": {"dtype": "fp32"},
        "checkpoint": {"every_steps": 5},
        "log": {"tensorboard": False},
    }
    file = train(load_config(table)).file
    assert file is not None
    exported = [t for name, t in load_file(file).items() if name.endswith("lora_up.weight")]
    kept = tmp_path / "run" / "checkpoints" / "step-00000005"
    trained = [t for name, t in load_file(kept / "adapter.safetensors").items() if name.endswith("/up")]
    average = list(load_file(kept / "ema.safetensors").values())

    def held(by: list[torch.Tensor]) -> int:
        return sum(any(t.shape == e.shape and torch.allclose(t, e, rtol=0, atol=1e-9) for t in by) for e in exported)

    assert held(average) == len(exported)
    assert held(trained) < len(exported)


def test_the_model_spec_says_what_the_user_says(pictures: Any, tmp_path: Path) -> None:
    from safetensors import safe_open

    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 1,
        "data": {"images": str(pictures(2)), "resolution": 64},
        "adapter": {"rank": 1, "layers": ["*.attn1.to_k"]},
        "metadata": {"author": "Mia", "license": "CC0", "title": "A title"},
        "log": {"tensorboard": False},
    }
    file = train(load_config(table)).file
    assert file is not None
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    assert (said["modelspec.author"], said["modelspec.license"], said["modelspec.title"]) == ("Mia", "CC0", "A title")


def test_minimal_metadata_say_nothing_of_data_and_training(pictures: Any, tmp_path: Path) -> None:
    """The keys that kohya's scripts keep with no_metadata; hashes of the tensors are the same as ever."""
    from safetensors import safe_open

    said = {}
    for name in ("full", "minimal"):
        table = {
            "base": "tiny-sd",
            "output": str(tmp_path / name),
            "name": "a",
            "steps": 1,
            "trigger": ["garp"],
            "comment": "secret",
            "data": {"images": str(pictures(2, name=f"secret {name}")), "resolution": 64},
            "adapter": {"kind": "loha", "rank": 1, "layers": ["*.attn1.to_k"]},
            "export": {"metadata": name},
            "metadata": {"author": "Mia"},
            "log": {"tensorboard": False},
        }
        file = train(load_config(table)).file
        assert file is not None
        with safe_open(file, "pt") as opened:
            said[name] = opened.metadata()
    own = {key for key in said["minimal"] if not key.startswith(("modelspec.", "sshs_"))}
    network = {f"ss_network_{name}" for name in ("module", "dim", "alpha", "args")}
    assert own == {"format", "ss_v2", "ss_base_model_version", *network}
    assert {key: said["full"][key] for key in own} == {key: said["minimal"][key] for key in own}
    assert said["minimal"]["modelspec.author"] == "Mia"
    assert said["minimal"]["sshs_model_hash"] == said["full"]["sshs_model_hash"]
    assert "secret" not in str(said["minimal"])
    assert str(said["full"]).count("secret") > 2


def private_run(pictures: Any, tmp_path: Path, level: str | None) -> dict[str, str]:
    """The metadata of a run whose data, prompts and settings hold the word secret in every place that they can."""
    from safetensors import safe_open

    images = pictures(3, name="10_secret")
    for path in images.glob("*.png"):
        path.with_suffix(".txt").write_text("garp, secret tag, a hat")
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / f"secret-{level}"),
        "name": "garp",
        "steps": 1,
        "trigger": ["garp"],
        "data": {
            "subsets": [{"images": str(images), "caption": "a secret", "captions": str(images)}],
            "transforms": [{"kind": "replace", "words": {"secret tag": "secret name"}}],
            "resolution": 64,
            "cache_dir": str(tmp_path / "secret-cache"),
        },
        "adapter": {"rank": 1, "layers": ["*.attn1.to_k"]},
        "preview": {"prompts": ["a secret prompt"], "steps": 1, "width": 64, "height": 64, "at_end": False},
        "log": {"tensorboard": False},
    }
    if level:
        table["export"] = {"metadata": level, "folder": str(tmp_path / "secret-loras")}
    file = train(load_config(table)).file
    assert file is not None
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def test_published_files_keep_folders_captions_and_prompts_to_themselves(pictures: Any, tmp_path: Path) -> None:
    """By default. What a user interface needs is there: name, base, trigger, rank."""
    import tomllib

    metadata = private_run(pictures, tmp_path, None)
    assert "secret" not in str(metadata)
    assert str(tmp_path) not in str(metadata)
    assert (metadata["ss_output_name"], metadata["modelspec.trigger_phrase"]) == ("garp", "garp")
    assert (metadata["ss_network_dim"], metadata["ss_sd_model_name"]) == ("1", "tiny-sd")
    config = tomllib.loads(metadata["lorasmith.config"])
    assert config["adapter"]["layers"] == ["*.attn1.to_k"]
    assert (config["data"]["resolution"], config["data"]["subsets"][0]["repeats"]) == (64, 1)


def test_full_metadata_have_tags_and_prompts_but_no_paths_of_the_machine(pictures: Any, tmp_path: Path) -> None:
    metadata = private_run(pictures, tmp_path, "full")
    assert "secret tag" in metadata["ss_tag_frequency"]
    assert "a secret prompt" in metadata["lorasmith.config"]
    assert str(tmp_path) not in str(metadata)


def test_no_metadata_are_what_programs_need(pictures: Any, tmp_path: Path) -> None:
    metadata = private_run(pictures, tmp_path, "none")
    others = [key for key in metadata if not key.startswith(("ss_network_", "sshs_", "modelspec."))]
    assert set(others) - {"ss_clip_skip"} == {"format", "ss_base_model_version", "ss_v2"}
    assert "garp" not in str(metadata)
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_a_base_that_is_gone_by_the_end_costs_no_lora(
    pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive or a share that is unmounted in mid-run: the weights are in memory, and so are the hashes."""
    base = Path(shutil.copytree(assets() / "tiny-sd", tmp_path / "base"))
    fit = session.fit

    def fit_without_base(run: Any) -> None:
        shutil.rmtree(base)
        fit(run)

    monkeypatch.setattr(session, "fit", fit_without_base)
    table = {
        "base": str(base),
        "output": str(tmp_path / "run"),
        "steps": 1,
        "data": {"images": str(pictures(2)), "resolution": 64},
        "adapter": {"rank": 1, "layers": ["*.attn1.to_k"]},
        "log": {"tensorboard": False},
    }
    file = session.train(load_config(table)).file
    assert file is not None
    assert file.is_file()
