"""A folder from somebody else imports no code and writes nowhere but beside itself, until the user says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.training.output.folder import reopen

CONFIG = 'base = "tiny-sd"\noutput = "run"\nsteps = 1\ndata.images = "images"\n'


def foreign_run(folder: Path, settings: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(settings + CONFIG)
    return folder


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `foreign_plugin` that leaves a mark when it is imported; returns the path of the mark."""
    mark = tmp_path / "imported"
    (tmp_path / "foreign_plugin.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "foreign_plugin", raising=False)
    return mark


def test_a_plugin_is_imported_only_if_the_user_names_it(tmp_path: Path, plugin: Path) -> None:
    run = foreign_run(tmp_path / "run", 'plugins = ["foreign_plugin"]\n')
    with pytest.raises(LorasmithError, match=r"names code to import: foreign_plugin.*--trust"):
        reopen(run)
    assert not plugin.exists()
    assert reopen(run, ['plugins=["foreign_plugin"]']).plugins == ("foreign_plugin",)
    assert plugin.exists()
    assert reopen(run, trust=True).output == run


@pytest.mark.parametrize("table", ["optimizer", "lr_schedule"])
def test_a_class_by_its_dotted_path_needs_trust(tmp_path: Path, table: str) -> None:
    setting = f'{table} = {{ kind = "class", name = "foreign_package.Thing" }}\n'
    run = foreign_run(tmp_path / "run", setting)
    with pytest.raises(LorasmithError, match=r"names code to import: foreign_package\.Thing"):
        reopen(run)
    assert reopen(run, trust=True).output == run
    assert reopen(run, [f"{table}.name=foreign_package.Thing"]).output == run


def test_classes_of_torch_and_of_known_optimizers_need_none(tmp_path: Path) -> None:
    for i, name in enumerate(("SGD", "torch.optim.SGD", "prodigyopt.Prodigy")):
        run = foreign_run(tmp_path / f"{i}", f'optimizer = {{ kind = "class", name = "{name}" }}\n')
        assert reopen(run).output == run


@pytest.mark.parametrize("place", ["{outside}", "../../outside", "../../.."])
def test_a_state_writes_nowhere_else(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    state = foreign_run(tmp_path / "downloads" / "a-state", "")
    (state / "state.json").write_text(json.dumps({"run": place.format(outside=outside), "id": "7"}))
    with pytest.raises(LorasmithError, match=r"outside of its folder.*--output"):
        reopen(state)
    assert reopen(state, output=tmp_path / "new").output == tmp_path / "new"
    # the same path, but the run that made the state is there
    run = reopen(state, trust=True).output
    (run / "config.toml").parent.mkdir(exist_ok=True)
    (run / "config.toml").write_text(CONFIG)
    (run / "events.jsonl").write_text('{"event": "start", "step": 0, "id": "7"}\n')
    assert reopen(state).output == run


def test_a_state_beside_its_run_needs_no_trust(tmp_path: Path) -> None:
    for run in ("..", "../run"):
        state = tmp_path / run.strip("./") / "a-state"
        foreign_run(state, "")
        (state / "state.json").write_text(json.dumps({"run": run}))
        assert reopen(state).output == (state / run).resolve()
