"""What is imported when: the command line answers at once, and a warm start needs no model library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "diffusers", "numpy", "pydantic", "PIL", "safetensors")
COMMANDS = ([], ["train"], ["sample"], ["check"], ["inspect"], ["convert"], ["merge"], ["demo"])


def modules_after(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    return {name for name in loaded if name in HEAVY}


@pytest.mark.slow_except("lorasmith", "train")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "lorasmith")
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    arguments = ["lorasmith", *command, "--help"]
    code = f"""
sys.argv = {arguments!r}
from lorasmith.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code"""
    own = {"pydantic"} if command else set()  # typer imports it itself to describe parameters
    assert modules_after(code) - own == set()


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is imported")

sys.meta_path.insert(0, NoTorch())
"""
WRONG = {
    "unknown key": "stepz = 3",
    "foreign key": "network_dim = 3",
    "wrong type": 'steps = "many"',
    "missing key": "steps = 3",
    "adapter": "[adapter]\nrnk = 3",
    "adapter of a named kind": '[adapter]\nkind = "lora"\nrank = -1',
    "optimizer": "[optimizer]\nlr = -1",
    "optimizer of no kind": 'optimizer.kind = "adamx"',
    "schedule": '[lr_schedule]\nkind = "cosine"\nendd = 1',
    "loss": '[objective]\nloss = "mse"\nmask_mean = "mid"',
    "hook": "[export]\nkeep = 0",
    "contradiction": "[optimizer]\nunet_lr = 0",
    "missing files beside an unknown key": 'vae = "gone.safetensors"\nstart = "gone.safetensors"\nstepz = 3',
}
"""Mistakes, each in a config that is right otherwise, except for the missing key."""


MISSING = {"missing files": 'vae = "gone.safetensors"\nstart = "gone.safetensors"'}
"""What `train` refuses before anything else. `check` goes on, to find what else is wrong."""
CASES = [*(("check", name) for name in WRONG), ("train", "unknown key"), *(("train", name) for name in MISSING)]


@pytest.mark.slow_except("check-adapter", "check-unknown*", "train-*")
@pytest.mark.parametrize(("command", "mistake"), CASES)
def test_a_wrong_config_is_answered_without_torch(command: str, mistake: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    right = ['base = "tiny-sd"', 'data.images = "lorasmith:garp"']
    if mistake != "missing key":
        right.append('output = "run"')
    file.write_text("\n".join([*right, (WRONG | MISSING)[mistake], ""]))
    script = "\n".join(
        [
            WITHOUT_TORCH,
            f"sys.argv = ['lorasmith', {command!r}, {str(file)!r}]",
            "from lorasmith.cli.main import main",
            "main()",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "torch" not in done.stderr + done.stdout


def test_settings_of_objective_and_optimizer_need_no_torch() -> None:
    names = ["diffusion.losses", "diffusion.noise", "diffusion.timesteps", "diffusion.weightings"]
    names += ["training.step.objectives", "training.step.optimizers", "data.transforms"]
    script = f"""{WITHOUT_TORCH}
import importlib, pkgutil
for name in {names!r}:
    package = importlib.import_module("lorasmith." + name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{{package.__name__}}.{{module.name}}")"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert modules_after("import lorasmith; dir(lorasmith); lorasmith.LorasmithError") == set()


def test_the_public_names_are_there() -> None:
    import lorasmith

    for name in lorasmith.__all__:
        assert getattr(lorasmith, name) is not None
        assert name in dir(lorasmith)
    with pytest.raises(AttributeError, match=r"no attribute 'trian'"):
        lorasmith.trian  # noqa: B018
