"""Dockerfile, compose.yaml and .dockerignore agree with each other, with pyproject.toml and with the studio."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorasmith.studio.app import USUAL_PORT
from tools import check_container

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


def last(instruction: str) -> str:
    """What the last line with this instruction says."""
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def test_the_image_has_a_python_that_the_package_allows() -> None:
    (version,) = re.findall(r"^ARG PYTHON=([\d.]+)$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_extras_of_the_image_exist() -> None:
    (extras,) = re.findall(r"lorasmith-\*\.whl\)\[([^\]]+)\]", DOCKERFILE)
    assert "studio" in extras.split(",")
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_program_does_not_run_as_root_and_its_folders_are_volumes() -> None:
    assert last("USER") == "1000"
    volumes = json.loads(last("VOLUME"))
    assert {"/cache", f"{last('WORKDIR')}/runs"} == set(volumes)
    assert "LORASMITH_CACHE=/cache/" in last("ENV")


def test_the_studios_port_is_the_one_that_is_published_and_only_to_this_machine() -> None:
    command = json.loads(last("CMD"))
    assert last("EXPOSE") == command[command.index("--port") + 1] == str(USUAL_PORT)
    assert command[command.index("--host") + 1] == "0.0.0.0"
    for service in SERVICES.values():
        assert service["ports"] == [f"127.0.0.1:{USUAL_PORT}:{USUAL_PORT}"]


def test_what_compose_mounts_and_builds_is_in_the_dockerfile() -> None:
    folder = last("WORKDIR")
    for service in SERVICES.values():
        targets = [volume.split(":")[1] for volume in service["volumes"]]
        assert set(json.loads(last("VOLUME"))) <= set(targets)
        assert all(target == "/cache" or target.startswith(f"{folder}/") for target in targets)
        assert service["build"]["args"].keys() <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert [service["build"]["args"]["TORCH"] for service in SERVICES.values()] == ["cpu", "cu130"]


def test_the_build_gets_what_the_wheel_is_made_of_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {"src", "pyproject.toml", "constraints.txt", "LICENSE", PROJECT["readme"]} <= kept
    assert all((ROOT / name).exists() for name in kept)


def test_the_check_without_docker_begins_with_a_new_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`useradd` of the Dockerfile fails in a root that has the user from an earlier run."""
    (tmp_path / "bare/usr/bin").mkdir(parents=True)
    (tmp_path / "bare/usr/bin/python3").touch()
    (tmp_path / "root/home/lorasmith").mkdir(parents=True)
    done: list[str] = []
    monkeypatch.setattr(check_container, "run", lambda *command: done.append(command[0]))
    root = check_container.make_root(tmp_path, "http://mirror.invalid", [])
    assert (root, done[:2]) == (tmp_path / "root", ["rm", "cp"])


def test_the_check_without_docker_takes_proc_away_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted /proc would be in the way of deleting the root."""
    done: list[str] = []
    monkeypatch.setattr(check_container, "run", lambda *command: done.append(command[0]))
    with pytest.raises(SystemExit), check_container.mounted_proc(tmp_path):
        raise SystemExit("exit code 1")
    assert done == ["mount", "umount"]


def test_the_check_without_docker_knows_every_instruction_and_starts_what_the_image_starts(tmp_path: Path) -> None:
    place = check_container.Place(tmp_path, {})
    for stage in check_container.read_dockerfile(DOCKERFILE):
        stage.steps = [step for step in stage.steps if step[0] not in ("RUN", "COPY")]
        check_container.carry_out(stage, place, {}, pip_torch=False)
    assert (place.user, place.folder) == (last("USER"), last("WORKDIR"))
    assert [*place.entry, *place.arguments] == [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert place.variables["LORASMITH_CACHE"] == "/cache/lorasmith"
