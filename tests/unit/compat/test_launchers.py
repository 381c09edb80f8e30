"""Command lines of launchers, as tutorials print them."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from lorasmith.compat.launchers import CommandLine, read_command
from lorasmith.compat.script import find_script
from lorasmith.core.errors import ConfigError, LorasmithError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def read(line: str) -> CommandLine:
    return read_command(line.split())


@pytest.mark.parametrize(
    ("line", "script", "arguments"),
    [
        ("train_network --a 1", "train_network", ["--a", "1"]),
        ("some/path/train_network.py --a", "some/path/train_network.py", ["--a"]),
        ("python train_edlora.py -opt x.yml", "train_edlora.py", ["-opt", "x.yml"]),
        ("/usr/bin/python3.11 -u -W ignore train_db.py", "train_db.py", []),
        (
            "accelerate launch --num_cpu_threads_per_process=4 train_network.py --config_file=a.toml",
            "train_network.py",
            ["--config_file=a.toml"],
        ),
        ("accelerate launch train_edlora.py -opt a.yml", "train_edlora.py", ["-opt", "a.yml"]),
        ("accelerate launch --num_cpu_threads_per_process 4 train_db.py", "train_db.py", []),
        ("accelerate launch --multi_gpu train_dreambooth_lora_sdxl --x", "train_dreambooth_lora_sdxl", ["--x"]),
        ("accelerate-launch --dynamo_backend no ./sd/train_db.py y", "./sd/train_db.py", ["y"]),
        ("accelerate launch -m library.train_network --b", "train_network", ["--b"]),
        ("accelerate launch --module train_network --b", "train_network", ["--b"]),
        ("python -m accelerate.commands.launch --cpu train_network.py", "train_network.py", []),
        ("python -m torch.distributed.run --standalone train_network.py", "train_network.py", []),
        ("C:\\env\\python.exe C:\\env\\accelerate.exe launch x.py", None, None),
        ("CUDA_VISIBLE_DEVICES=1 accelerate launch train_network.py", "train_network.py", []),
        ("env A=b python train_network.py", "train_network.py", []),
    ],
)
def test_the_script_and_its_arguments(line: str, script: str | None, arguments: list[str] | None) -> None:
    # Interpreters run files: a launcher's file is run as the launcher only by its name.
    if script is None:
        assert read(line.split(" ", 1)[1]).script == "x.py"
        return
    command = read(line)
    assert (command.script, command.arguments) == (script, arguments)


@pytest.mark.parametrize(
    ("options", "devices", "count"),
    [
        ("", 4, 4),  # as accelerate, which takes every GPU
        ("", 0, 1),
        ("--num_processes=2", 4, 2),
        ("--multi_gpu --num_processes 3", 4, 3),
        ("--num_processes 1", 4, 1),
        ("--cpu", 4, 1),
        ("--use_cpu", 4, 1),
    ],
)
def test_how_many_processes(options: str, devices: int, count: int) -> None:
    assert read(f"accelerate launch {options} train_network.py").process_count(lambda: devices) == count


def test_other_launchers_start_what_they_are_told() -> None:
    assert read("torchrun --nproc-per-node 2 train_network.py").process_count(lambda: 4) == 2
    assert read("torchrun train_network.py").process_count(lambda: 4) == 1
    assert read("python train_network.py").process_count(lambda: 4) == 1


def test_devices() -> None:
    assert read("accelerate launch --gpu_ids 1,2 train_db.py").environment == {"CUDA_VISIBLE_DEVICES": "1,2"}
    assert read("accelerate launch --gpu_ids=all train_db.py").environment == {}
    assert read("CUDA_VISIBLE_DEVICES=3 train_db.py").environment == {"CUDA_VISIBLE_DEVICES": "3"}


def test_the_answers_of_accelerate_config(tmp_path: Path) -> None:
    settings = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("num_processes: 2\nmixed_precision: bf16\ngpu_ids: all\nuse_cpu: false\nfsdp_config: {}\n")
    command = read("accelerate launch train_dreambooth_lora.py --mixed_precision fp16")
    assert command.processes == 2
    # The option of the command line counts, which is the last.
    script = find_script("train_dreambooth_lora")
    arguments = command.arguments_for(script)
    assert arguments == ["--mixed_precision=bf16", "--mixed_precision", "fp16"]
    # kohya's scripts decide by themselves, so that the launcher's precision has no effect there either.
    assert read("accelerate launch train_network.py").arguments_for(find_script("train_network")) == []

    other = tmp_path / "other.yaml"
    other.write_text("num_processes: 1\n")
    assert read(f"accelerate launch --config_file {other} train_db.py --config_file x").processes == 1
    assert read(f"accelerate launch --config_file {other} --num_processes 4 train_db.py").processes == 4
    other.write_text("- 1\n")
    with pytest.raises(LorasmithError, match="not a config file of accelerate"):
        read(f"accelerate launch --config_file {other} train_db.py")


def test_what_has_no_effect_is_said_once() -> None:
    assert read("accelerate launch --num_cpu_threads_per_process 8 --dynamo_backend inductor train_db.py").notes == []
    (note,) = read("accelerate launch --use_deepspeed --zero_stage 2 train_db.py").notes
    assert "--use_deepspeed, --zero_stage" in note


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("accelerate launch --num_processes 2", "names no script"),
        ("accelerate launch --multi_gpu train_netwrk --x", "names no script"),
        ("accelerate config", "only"),
        ("accelerate", "only"),
        ("python", "names no script"),
    ],
)
def test_without_a_script(line: str, text: str) -> None:
    with pytest.raises(LorasmithError, match=text):
        read(line)


def test_wrong_values_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read("accelerate launch --num_processes two --num_machines 2 train_network.py")
    assert {problem.where for problem in error.value.problems} == {"--num_processes", "the launcher"}
    with pytest.raises(ConfigError):
        read("accelerate launch --num_processes 0 train_network.py")


def test_several_processes_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is converted once, so that its mistakes are found first, and then started for each rank."""
    from lorasmith.cli.foreign import as_command

    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr("lorasmith.cli.foreign.run_ranks", lambda words, count: started.append((words, count)) or 0)
    line = ["launch", "--num_processes=2", "train_dreambooth_lora.py", "--mixed_precision=no", "--json"]
    with pytest.raises(ConfigError):
        as_command("accelerate", line)
    assert not started
    (tmp_path / "0.png").touch()
    needed = ["--pretrained_model_name_or_path=x", f"--instance_data_dir={tmp_path}", "--instance_prompt=a"]
    with pytest.raises(typer.Exit) as end:
        as_command("accelerate", [*line, *needed, f"--output_dir={tmp_path / 'y'}"])
    assert end.value.exit_code == 0
    ((words, count),) = started
    assert count == 2
    assert words[1:5] == ["-m", "lorasmith", "as", "train_dreambooth_lora"]
    assert words[-1] == "--json"
    assert words.count("--json") == 1


def test_a_file_alone_is_converted_for_its_script(tmp_path: Path) -> None:
    from lorasmith.cli.foreign import convert_config_command

    file = tmp_path / "a.yml"
    file.write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"concept_list"):
        convert_config_command(str(file))
