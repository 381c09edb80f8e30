"""LoRAs in a checkpoint: the base and its changes, in its own layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from changes import deltas
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import load
from lorasmith.files.lora import LoraInput
from lorasmith.files.merge import merge

LAYERS = ("unet.mid_block.*", "te*.q_proj", "te*.out_proj")


def single(folder: Path) -> Path:
    return next(p for p in (folder.with_suffix(".safetensors"), *folder.glob("*.safetensors")) if p.is_file())


def weights(family) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{n}": p.detach().float() for part, m in family.components().items() for n, p in m.named_parameters()
    }


@pytest.mark.slow_except("sd1-*")
@pytest.mark.parametrize(
    ("kind", "layout", "config"),
    [(kind, layout, LoRA(rank=2, layers=LAYERS)) for kind in ("sd1", "sd2", "sdxl") for layout in ("folder", "single")]
    + [("sd1", "folder", LoHa(rank=2, layers=LAYERS))],
    ids=lambda value: getattr(value, "kind", value),
)
def test_the_merged_base_is_the_base_with_its_changes(config, kind, layout, make, bases, families, tmp_path) -> None:
    path, _ = make(config, kind)
    source = bases(kind) if layout == "folder" else single(bases(kind))
    output = tmp_path / ("merged" if layout == "folder" else "merged.safetensors")
    merge(source, [LoraInput(path, 0.6)], output)
    before, after = weights(families(kind)), weights(load(output, dtype=torch.float32))
    changes = deltas(families(kind), path)
    assert before.keys() == after.keys()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert len(moved) == len(changes)
    for name, change in changes.items():
        key = next(n for n in before if n in (f"{name}.weight", f"{name.replace('text_model.', '', 1)}.weight"))
        wanted = before[key] + 0.6 * change.view_as(before[key])
        assert float((after[key] - wanted).norm() / change.norm()) < 1e-5, name


def test_two_dora_go_one_on_top_of_the_other(make, bases, families, tmp_path) -> None:
    (a, _), (b, _) = make(DoRA(rank=2, layers=LAYERS)), make(DoRA(rank=2, layers=LAYERS), seed=5)
    merge(bases(), [LoraInput(a), LoraInput(b, 0.5)], tmp_path / "both")
    merge(bases(), [LoraInput(a)], tmp_path / "first")
    merge(tmp_path / "first", [LoraInput(b, 0.5)], tmp_path / "then")
    both, then = (weights(load(tmp_path / n, dtype=torch.float32)) for n in ("both", "then"))
    assert all(torch.allclose(both[n], then[n], atol=1e-6) for n in both)


def test_half_precision_stays_and_metadata_too(make, bases, tmp_path) -> None:
    path, _ = make(LoRA(rank=2, layers=LAYERS))
    source = single(bases("sd1", torch.float16))
    merge(source, [LoraInput(path)], tmp_path / "m.safetensors")
    old, new = load_file(source), load_file(tmp_path / "m.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}


def test_a_weight_that_would_overflow_leaves_nothing_behind(make, bases, tmp_path) -> None:
    path, _ = make(LoRA(rank=2, layers=LAYERS))
    with pytest.raises(LorasmithError, match="does not fit into float16"):
        merge(single(bases("sd1", torch.float16)), [LoraInput(path, 1e9)], tmp_path / "m.safetensors")
    assert not list(tmp_path.glob("m*"))


def test_what_would_harm_the_base_is_refused(make, bases, tmp_path) -> None:
    path, _ = make(LoRA(rank=2, layers=LAYERS))
    wrong, _ = make(LoRA(rank=2, layers=LAYERS), "sdxl")
    base = bases()
    for loras, output, words in (
        ([path], base, "base itself"),
        ([path], base / "inside", "inside the base"),
        ([path], tmp_path / "x.safetensors", "is a folder"),
        ([], tmp_path / "x", "at least one"),
        ([wrong], tmp_path / "x", "sdxl"),
    ):
        with pytest.raises(LorasmithError, match=words):
            merge(base, [LoraInput(p) for p in loras], output)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_memory_is_a_few_tensors_not_the_checkpoint(make, tmp_path) -> None:
    """A checkpoint with a ballast of 400 MB beside the small UNet is merged with less than half of that on top."""
    from tools.make_random_sd import write as write_base

    write_base(tmp_path / "base", "sd1", tiny=True, layouts=("single",), dtype=torch.float32, seed=1)
    source = single(tmp_path / "base")
    tensors = load_file(source) | {f"ballast.{i}": torch.zeros(1 << 20) for i in range(100)}
    with safe_open(source, "pt") as opened:
        save_file(tensors, tmp_path / "big.safetensors", opened.metadata())
    path, _ = make(LoRA(rank=2, layers=LAYERS))
    code = (
        "import resource, sys; from pathlib import Path; from lorasmith.files.merge import merge; "
        "from lorasmith.files.lora import LoraInput; import torch; "
        "a = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "merge(sys.argv[1], [LoraInput(Path(sys.argv[2]))], Path(sys.argv[3])); "
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - a) // 1024)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "big.safetensors"),
        str(path),
        str(tmp_path / "m.safetensors"),
    ]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 200
