"""What a file tells about a run, and what it keeps to itself."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lorasmith.training.config import load_config
from lorasmith.training.output.export import without_folders
from lorasmith.training.session import train


def test_absolute_paths_are_cut_to_their_names() -> None:
    settings = {
        "base": Path("/models/v1-5.safetensors"),
        "data": {"subsets": [{"images": Path("/data/photos"), "repeats": 2}], "cache_dir": None},
        "output": Path("runs/mia"),
        "name": "/not/a/path",
    }
    found = without_folders(settings)
    assert found["base"] == "v1-5.safetensors"
    assert found["data"] == {"subsets": [{"images": "photos", "repeats": 2}], "cache_dir": None}
    assert found["output"] == Path("runs/mia")
    assert found["name"] == "/not/a/path"


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
