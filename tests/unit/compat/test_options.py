"""The command line of foreign scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.compat.options import Option, split_arguments
from lorasmith.compat.script import all_scripts, find_script
from lorasmith.core.errors import ConfigError, LorasmithError

KNOWN = (
    Option("rate", "float"),
    Option("args", "texts"),
    Option("fast"),
    Option("faster"),
    Option("text_lr", "floats"),
)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--rate=1", "--fast"], {"rate": "1", "fast": True}),
        (["--rate", "-1", "--rate", "2"], {"rate": "2"}),
        (["--args", "a=1", "b=2", "--fast"], {"args": ["a=1", "b=2"], "fast": True}),
        (["--ra=3", "--text", "1", "2"], {"rate": "3", "text_lr": ["1", "2"]}),
    ],
)
def test_words_become_values(argv: list[str], expected: dict) -> None:
    assert split_arguments(KNOWN, argv) == expected


def test_arguments_that_belong_to_no_option_stop_the_run() -> None:
    """As argparse does; a text without quotes would otherwise be cut after its first word."""
    with pytest.raises(ConfigError) as error:
        split_arguments(KNOWN, ["x", "y", "--rate", "a", "photo", "of", "--fast", "z"])
    assert [p.where for p in error.value.problems] == ["x y", "--rate", "z"]
    assert error.value.problems[1].remedy.endswith('--rate="a photo of"')


@pytest.mark.parametrize("script", ["train_network", "train_db", "train_dreambooth_lora", "textual_inversion"])
def test_an_option_that_a_script_does_not_have_stops_the_run(script: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_script(script).parse(["--output_dr=x", "--seed=a", "--nothing"])
    found = {p.where: p.remedy for p in error.value.problems}
    assert found.keys() == {"--output_dr", "seed", "--nothing"}
    assert "output_dir" in found["--output_dr"]
    assert "--help" in found["--nothing"]


def test_an_unknown_key_of_a_file_is_a_note(tmp_path: Path) -> None:
    """The original reads its files without a check of their keys."""
    (tmp_path / "a.toml").write_text("netwrk_dim = 8\n")
    parsed = find_script("train_network").parse([f"--config_file={tmp_path / 'a.toml'}"])
    assert ["network_dim" in warning for warning in parsed.warnings] == [True]


@pytest.mark.parametrize(
    ("type_", "given", "expected"),
    [
        ("flag", 1, True),
        ("flag", "False", False),
        ("int", "8", 8),
        ("int", 8.0, 8),
        ("float", "1e-4", 1e-4),
        ("steps", "5%", 0.05),
        ("steps", 100.0, 100),
        ("steps", 0.1, 0.1),
        ("text", [512, 768], "512,768"),
        ("text", 512, "512"),
        ("texts", "a=1 b=2", ["a=1", "b=2"]),
        ("floats", 1e-4, [1e-4]),
        ("floats", "1,2", [1.0, 2.0]),
        ("int", "", None),
        ("text", "None", None),
        ("text", False, None),
        ("texts", False, None),
        ("floats", False, None),
        ("int", False, None),
        ("steps", False, None),
        ("flag", False, False),
        ("text", "false", "false"),
    ],
)
def test_loose_types(type_: str, given: object, expected: object) -> None:
    found = Option("x", type_).parse(given)  # type: ignore[arg-type]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("type_", "given"),
    [("flag", "maybe"), ("int", 1.5), ("float", True), ("text", {}), ("text", True), ("texts", True)],
)
def test_wrong_types(type_: str, given: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        Option("x", type_).parse(given)  # type: ignore[arg-type]


def test_all_problems_at_once_and_the_nearest_name() -> None:
    script = find_script("some/path/train_network.py")
    with pytest.raises(ConfigError) as error:
        script.parse(["--network_dim=a", "--loss_type=banana", "--dataset_class=a.B"])
    assert {p.where for p in error.value.problems} == {"network_dim", "loss_type", "dataset_class"}
    assert "dataset_config" in str(error.value)


def test_an_unknown_script_is_named() -> None:
    with pytest.raises(LorasmithError, match='did you mean "train_network"'):
        find_script("train_netwrk")


def test_every_option_says_what_it_must() -> None:
    for script in all_scripts().values():
        names = [o.name for o in script.options]
        assert len(set(names)) == len(names)
        for option in script.options:
            assert option.note or option.state == "same", option.name


def test_another_vae_of_diffusers_scripts(tmp_path: Path) -> None:
    from PIL import Image

    from lorasmith.compat.script import find_script

    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    script = find_script("train_dreambooth_lora_sdxl")
    words = [
        "--pretrained_model_name_or_path=x",
        f"--instance_data_dir={tmp_path}",
        "--instance_prompt=a",
        "--output_dir=y",
    ]
    for more, found in (([], None), (["--pretrained_vae_model_name_or_path=fixed"], "fixed")):
        assert script.convert(script.parse([*words, *more])).config.get("vae") == found


@pytest.mark.parametrize(
    ("more", "where"),
    [
        (["--resolution=500", "--with_prior_preservation", "--class_data_dir=c", "--class_prompt=a"], "--resolution"),
        (["--resolution=0"], "--resolution"),
        (["--train_batch_size=0"], "--train_batch_size"),
        (["--seed=-1", "--with_prior_preservation", "--class_data_dir=c", "--class_prompt=a"], "seed"),
    ],
)
def test_numbers_that_no_run_can_have(more: list[str], where: str, tmp_path: Path) -> None:
    script = find_script("train_dreambooth_lora")
    arguments = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={tmp_path}", "--instance_prompt=a"]
    with pytest.raises(ConfigError) as error:
        script.convert(script.parse([*arguments, *more]))
    assert [p.where for p in error.value.problems] == [where]


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", float("inf"), 10**400])
@pytest.mark.parametrize("kind", ["int", "float", "steps", "floats"])
def test_numbers_are_finite(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="number"):
        Option("x", kind).parse([value] if kind == "floats" else value)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("datasets.train.instance_transform", [3], "0: "),
        ("datasets.train.replace_mapping", "x", "a table"),
        ("datasets.val_vis.latent_size", [4, 8], "at least 3"),
        ("datasets.val_vis.prompts", {"a": 1}, "a text"),
    ],
)
def test_values_inside_of_tables_have_types_too(option: str, value: Any, allowed: str) -> None:
    """A table of a YAML file reaches the conversion as a whole."""
    from lorasmith.compat.mixofshow.options import TRAIN

    with pytest.raises(ValueError, match=allowed):
        next(known for known in TRAIN if known.name == option).parse(value)
