"""The whole objective of Mix-of-Show (trainer_edlora.py, `forward` and `cal_attn_reg`) once more, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorasmith.compat.mixofshow.reading import flatten
from lorasmith.compat.script import find_script
from lorasmith.training.config import load_config
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import micro_batches, rank_share

GARP = Path(__file__).parents[3] / "src/lorasmith/assets/garp"
WEIGHT = 0.01


def make(folder: Path, full: bool, masked_loss: bool) -> Run:
    """A run from the YAML's keys, on three images of 64 pixels with masks in their lower right."""
    for name in ("image", "mask"):
        (folder / name).mkdir()
    for i in range(3):
        picture = Image.open(GARP / f"0{i + 1}.png").convert("RGB").resize((64, 64))
        picture.save(folder / "image" / f"{i}.png")
        mask = Image.new("L", (64, 64))
        mask.paste(255, (20, 12 * i + 12, 60 - 4 * i, 60))
        mask.save(folder / "mask" / f"{i}.png")
    entry = {"instance_prompt": "<TOK>", "instance_data_dir": str(folder / "image"), "mask_dir": str(folder / "mask")}
    (folder / "list.json").write_text(json.dumps([entry]))
    lora = {"enable_tuning": True, "lr": 1e-4, "lora_cfg": {"rank": 4, "where": "Attention"}}
    given = {
        "name": "x",
        "datasets.train.concept_list": str(folder / "list.json"),
        "datasets.train.use_mask": True,
        "datasets.train.replace_mapping": {"<TOK>": "a photo of <a1> <a2>"},
        "datasets.train.batch_size_per_gpu": 3,
        "datasets.val_vis.latent_size": [4, 8, 8],
        "models.pretrained_path": "tiny-sd",
        "models.new_concept_token": "<a1>+<a2>",
        "models.initializer_token": "<rand-0.013>+robot",
        "models.finetune_cfg.unet": lora,
        "models.noise_offset": 0.01,
        "models.attn_reg_weight": WEIGHT,
        "models.reg_full_identity": full,
        "models.use_mask_loss": masked_loss,
    }
    script = find_script("train_edlora")
    config = script.convert(script.read(flatten(given), [])).config
    own = {"output": str(folder / "run"), "steps": 1, "epochs": None}
    return build_run(load_config({k: v for k, v in (config | own).items() if v is not None}))


def watch(run: Run, kept: dict[str, list[Any]]) -> list[Any]:
    """Keep the queries and keys of the cross-attention layers, and what goes in and out of the UNet."""
    unet = run.family.unet

    def seen(module: Any, given: Any, output: Any) -> None:
        kept["x_t"].append(given[0].detach())
        kept["t"].append(given[1])
        kept["output"].append(output.detach())

    handles = [unet.register_forward_hook(seen)]
    for block in unet.modules():
        if hasattr(block, "map_recorder"):
            for name in ("q", "k"):
                layer = block.attn2.get_submodule(f"to_{name}")
                handles.append(layer.register_forward_hook(lambda m, x, y, name=name: kept[name].append(y.detach())))
            kept["heads"].append(block.heads)
    return handles


def attention_term(kept: dict[str, list[Any]], mask: np.ndarray, positions: tuple[int, int], full: bool) -> float:
    """Sum over resolutions: heads and layers averaged, divided by the batch's maximum, outside or against the mask."""
    by_size: dict[int, list[np.ndarray]] = {}
    for q, k, heads in zip(kept["q"], kept["k"], kept["heads"], strict=True):
        q, k = (x.double().numpy().reshape(*x.shape[:2], heads, -1) for x in (q, k))
        scores = np.einsum("bphc,bthc->bhpt", q, k) / np.sqrt(q.shape[-1])
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        by_size.setdefault(q.shape[1], []).append(chances / chances.sum(-1, keepdims=True))
    total = 0.0
    for pixels, maps in by_size.items():
        side = int(np.sqrt(pixels))
        every = np.concatenate(maps, 1).mean(1).reshape(len(mask), side, side, -1)
        rows = np.arange(side) * mask.shape[-1] // side
        small = mask[:, rows][:, :, rows]
        adjective, subject = (every[..., p] / every[..., p].max() for p in positions)
        total += adjective[small == 0].mean()
        total += ((subject - small) ** 2).mean() if full else subject[small == 0].mean()
    assert len(by_size) == 4
    return total


@pytest.mark.slow_except("True-True")
@pytest.mark.parametrize("masked_loss", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_every_term_and_their_ratio_are_the_originals(tmp_path: Path, full: bool, masked_loss: bool) -> None:
    run = make(tmp_path, full, masked_loss)
    ((batch, rng),) = micro_batches(run, rank_share(run.dataset.epoch(0)), 0)
    kept: dict[str, list[Any]] = {name: [] for name in ("q", "k", "heads", "x_t", "t", "output")}
    handles = watch(run, kept)
    result = run.objective(run.family, batch, rng)
    for handle in handles:
        handle.remove()

    assert batch.latents is not None
    assert batch.subject is not None
    x0 = run.family.latents(batch.latents, rng.normal("latent", (4, 8, 8))).double().numpy()
    signal = run.family.path.alphas_cumprod[kept["t"][0]].double().numpy().reshape(-1, 1, 1, 1)
    noise = (kept["x_t"][0].double().numpy() - np.sqrt(signal) * x0) / np.sqrt(1 - signal)
    error = (kept["output"][0].double().numpy() - noise) ** 2
    mask = batch.subject.double().numpy()
    weight = mask if masked_loss else np.ones_like(mask)
    diffusion = np.mean((error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)))  # channels above, none below
    ids = run.family.tokens(batch.captions[0])
    places = [i + 1 for i, token in enumerate(ids) if token >= run.family.vocabulary.size]  # type: ignore[union-attr]
    regularisation = WEIGHT * attention_term(kept, mask[:, 0], (places[0], places[1]), full)

    assert float(result.parts["denoising"]) == pytest.approx(diffusion, rel=2e-4)
    assert float(result.parts["attention_regularisation"]) == pytest.approx(regularisation, rel=2e-4)
    assert float(result.loss.detach()) / 3 == pytest.approx(diffusion + regularisation, rel=2e-4)
    ratio = float(result.parts["attention_regularisation"] / result.parts["denoising"])
    assert ratio == pytest.approx(regularisation / diffusion, rel=4e-4)
