"""Changes of modules that hold several layers: split and joined without a loss, for every kind of adapter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec, kind_of
from lorasmith.files import lora as lora_files  # noqa: F401  (registers all kinds)
from lorasmith.formats.joint_modules import CannotSplitError, join, split, swap_halves
from lorasmith.formats.rewrite import LayerTensors

WIDTH = 12
SIZES = (1, 1, 1, 4)
SHAPES = [(WIDTH * size, WIDTH) for size in SIZES]


def weight(tensors: LayerTensors, base: Tensor) -> Tensor:
    """The changed weight, as the adapter kind computes it."""
    kind = kind_of(tensors)
    assert kind is not None, tensors.keys()
    spec = LayerSpec("x.y", "linear", tuple(base.shape))
    return base + kind().restore(spec, base, tensors).delta(base).detach()


def lora(rows: int, rank: int, seed: int, alpha: float | None = None) -> LayerTensors:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "lora_down.weight": torch.randn(rank, WIDTH, generator=generator),
        "lora_up.weight": torch.randn(rows, rank, generator=generator),
    }
    return tensors if alpha is None else tensors | {"alpha": torch.tensor(alpha)}


TOTAL = WIDTH * sum(SIZES)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


FUSED: dict[str, LayerTensors] = {
    "lora": lora(TOTAL, 3, 1, 2.0),
    "dora along outputs": lora(TOTAL, 3, 1, 2.0) | {"dora_scale": random(TOTAL, 1).abs()},
    "loha": {
        "hada_w1_a": random(TOTAL, 2),
        "hada_w1_b": random(2, WIDTH),
        "hada_w2_a": random(TOTAL, 2) + 1,
        "hada_w2_b": random(2, WIDTH) + 1,
        "alpha": torch.tensor(1.0),
    },
    "lokr in whole rows": {"lokr_w1": random(7, 3), "lokr_w2_a": random(12, 2), "lokr_w2_b": random(2, 4)},
    "lokr across layers": {"lokr_w1": random(6, 3), "lokr_w2": random(14, 4)},
    "full": {"diff": random(TOTAL, WIDTH), "diff_b": random(TOTAL)},
    "oft": {"oft_blocks": random(TOTAL // 4, 4, 4) * 0.1, "alpha": torch.tensor(0.0)},
    "ia3": {"weight": random(TOTAL), "on_input": torch.tensor(False)},
    "glora": {
        "a1.weight": random(WIDTH, 2),
        "a2.weight": random(2, WIDTH),
        "b1.weight": random(TOTAL, 2),
        "b2.weight": random(2, WIDTH),
    },
}


@pytest.mark.parametrize("name", FUSED)
def test_the_layers_together_change_what_the_module_changes(name: str) -> None:
    base = random(TOTAL, WIDTH)
    parts = split(FUSED[name], SIZES)
    bases = base.split([rows for rows, _ in SHAPES])
    changed = torch.cat([weight(part, rows) for part, rows in zip(parts, bases, strict=True)])
    assert torch.allclose(changed, weight(FUSED[name], base), atol=2e-5)


@pytest.mark.parametrize("name", [name for name in FUSED if name != "lokr across layers"])
def test_what_was_split_is_joined_bit_for_bit(name: str) -> None:
    joint = join(split(FUSED[name], SIZES), SIZES, SHAPES)
    assert joint is not None
    assert joint.keys() == FUSED[name].keys()
    assert all(joint[key].equal(tensor) for key, tensor in FUSED[name].items())


def test_separate_loras_are_joined_as_blocks_of_ranks() -> None:
    parts = [lora(rows, 3, i, 2.0) for i, (rows, _) in enumerate(SHAPES)]
    joint = join(parts, SIZES, SHAPES)
    assert joint is not None
    assert joint["lora_down.weight"].shape == (12, WIDTH)
    assert float(joint["alpha"]) == 8.0, "alpha / rank must stay"
    # exact: the numbers of the factors are those of the parts
    assert joint["lora_up.weight"][:WIDTH, :3].equal(parts[0]["lora_up.weight"])
    assert not joint["lora_up.weight"][:WIDTH, 3:].any()
    base = random(TOTAL, WIDTH)
    pieces = base.split([rows for rows, _ in SHAPES])
    separate = torch.cat([weight(part, rows) for part, rows in zip(parts, pieces, strict=True)])
    assert torch.allclose(weight(joint, base), separate, atol=1e-5)


def test_other_ranks_alphas_and_missing_layers_are_joined() -> None:
    parts = [lora(WIDTH, 2, 1, 2.0), None, lora(WIDTH, 3, 2, 1.5), None]
    joint = join(parts, SIZES, [SHAPES[0], SHAPES[2]])
    assert joint is not None
    assert joint["lora_down.weight"].shape[0] == 5
    change = weight(joint, torch.zeros(TOTAL, WIDTH))
    zeros = torch.zeros(WIDTH, WIDTH)
    assert torch.allclose(change[:WIDTH], weight(parts[0] or {}, zeros), atol=1e-5)
    assert not change[WIDTH : 2 * WIDTH].any()
    assert torch.allclose(change[2 * WIDTH : 3 * WIDTH], weight(parts[2] or {}, zeros), atol=1e-5)
    assert not change[3 * WIDTH :].any()


def test_separate_dora_along_outputs_is_joined() -> None:
    parts = [lora(rows, 2, i, 1.0) | {"dora_scale": random(rows, 1).abs()} for i, (rows, _) in enumerate(SHAPES)]
    joint = join(parts, SIZES, SHAPES)
    assert joint is not None
    base = random(TOTAL, WIDTH)
    pieces = base.split([rows for rows, _ in SHAPES])
    separate = torch.cat([weight(part, rows) for part, rows in zip(parts, pieces, strict=True)])
    assert torch.allclose(weight(joint, base), separate, atol=1e-5)


@pytest.mark.parametrize(
    "tensors",
    [
        lora(TOTAL, 3, 1, 2.0) | {"dora_scale": random(1, WIDTH).abs()},
        {"oft_blocks": random(2, TOTAL // 4, 4, 4), "alpha": torch.tensor(0.0)},
        {"oft_blocks": random(TOTAL // 4, 4, 4), "alpha": torch.tensor(1e-3)},
    ],
    ids=["DoRA along inputs", "BOFT", "bounded OFT"],
)
def test_what_all_rows_decide_together_is_refused(tensors: LayerTensors) -> None:
    with pytest.raises(CannotSplitError, match="cannot be divided"):
        split(tensors, SIZES)


def test_kinds_without_a_joint_form_are_not_joined() -> None:
    parts: list[LayerTensors | None] = [FUSED["loha"], {name: t + 1 for name, t in FUSED["loha"].items()}]
    assert join(parts, (1, 1), [(TOTAL, WIDTH)] * 2) is None


def test_swapping_halves_twice_changes_nothing() -> None:
    tensors = lora(WIDTH, 2, 5, 1.0)
    swapped = swap_halves(tensors)
    assert swapped["lora_up.weight"][: WIDTH // 2].equal(tensors["lora_up.weight"][WIDTH // 2 :])
    again = swap_halves(swapped)
    assert all(again[name].equal(tensor) for name, tensor in tensors.items())
