"""What a file tells about a run, and what it keeps to itself."""

from pathlib import Path

from lorasmith.train.export import public


def test_absolute_paths_are_cut_to_their_names() -> None:
    settings = {
        "base": Path("/models/v1-5.safetensors"),
        "data": {"subsets": [{"images": Path("/data/photos"), "repeats": 2}], "cache_dir": None},
        "output": Path("runs/mia"),
        "name": "/not/a/path",
    }
    found = public(settings)
    assert found["base"] == "v1-5.safetensors"
    assert found["data"] == {"subsets": [{"images": "photos", "repeats": 2}], "cache_dir": None}
    assert found["output"] == Path("runs/mia")
    assert found["name"] == "/not/a/path"
