"""Pictures of where words look: the maps again in float64, and training that does not notice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps, record_maps
from lorasmith.imaging.heatmap import COLOUR_STOPS, heatmap, highlight_mask
from lorasmith.training.config import load_config
from lorasmith.training.hooks.attention_maps import AttentionMaps, find_tokens
from lorasmith.training.output.report import write_report
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit

GARP = Path(__file__).parents[4] / "src/lorasmith/assets/garp"
WORDS = [{"words": ["<g1>", "<g2>"], "init": ["<rand-0.02>", "robot"], "vectors": 2, "layerwise": True}]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Run]:
    """A run on six garps; `hook` are the settings of the maps, None for a run without."""
    Image.new("L", (512, 512)).save(tmp_path / "black.png")
    (tmp_path / "masks").mkdir()
    for image in GARP.glob("*.png"):
        with Image.open(image) as opened:
            mask = Image.new("L", opened.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(tmp_path / "masks" / image.name)

    def make(hook: dict[str, Any] | None, **more: Any) -> Run:
        hooks = [] if hook is None else [{"kind": "attention_maps", **hook}]
        table = {
            "base": "tiny-sd",
            "output": str(tmp_path / f"run{len(list(tmp_path.glob('run*')))}"),
            "steps": 2,
            "data": {
                "images": str(GARP),
                "part": [0, 6],
                "masks": str(tmp_path / "masks"),
                "resolution": [64, 96],
                "buckets": {"enabled": False},
                "batch_size": 2,
                "cache_dir": str(tmp_path / "cache"),
                "transforms": [{"kind": "replace", "words": {"garp": "<g1> <g2>"}}],
            },
            "concepts": WORDS,
            "adapter": {"kind": "lora", "rank": 2, "module_dropout": 0.3},
            "hooks": hooks,
        }
        return build_run(load_config(table | more))

    return make


def weights(run: Run) -> dict[str, Tensor]:
    file = load_file(run.folder / f"{run.config.file_name}.exact.safetensors")
    run.adapters.detach()
    return file


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_training_does_not_notice_them(build: Any, checkpointing: bool) -> None:
    files = []
    for hook in ({"every_steps": 1, "at_start": True, "images": 2}, None):
        run = build(hook, gradient_checkpointing=checkpointing)
        fit(run)
        assert all(getattr(m, "map_recorder", None) is None for m in run.family.unet.modules())
        files.append((weights(run), run.folder))
    (drawn, folder), (plain, _) = files
    assert drawn.keys() == plain.keys()
    assert all(torch.equal(drawn[name], plain[name]) for name in plain)

    pictures = sorted(p.name for p in (folder / "attention").iterdir())
    assert pictures == [f"step-0000000{i}.png" for i in (0, 1, 2)]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (last,) = (e for e in events if e["event"] == "attention" and e["step"] == 2)
    assert last["words"] == ["<g1>", "<g2>"]
    assert all(0 < share < 1 for share in last["inside"].values())
    page = write_report(folder).read_text()
    assert "Attention of the words" in page
    assert page.count('alt="attention at step') == 3
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tensorboard = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [e.step for e in tensorboard.Images("attention")] == [0, 1, 2]
    assert "attention/inside/<g2>" in tensorboard.Tags()["scalars"]


def test_maps_are_the_softmax_of_every_layer(build: Any) -> None:
    run = build({"timesteps": [300], "words": ["<g2>", "photo"]})
    hook = run.config.hooks[0]
    assert isinstance(hook, AttentionMaps)
    kept: dict[str, list[Tensor]] = {"q": [], "k": []}
    handles = []
    for module in run.family.unet.modules():
        if hasattr(module, "map_recorder"):
            for name in kept:
                layer = module.attn2.get_submodule(f"to_{name}")
                handles.append(layer.register_forward_hook(lambda m, x, y, name=name: kept[name].append(y)))
    with run.as_exported():
        look = hook.measure(run, 3, hook.words)
    for handle in handles:
        handle.remove()
    assert len(kept["q"]) == 16
    heads = next(m.heads for m in run.family.unet.modules() if hasattr(m, "map_recorder"))

    # "a photo of <g1> <g2>, ...": begin, a, photo, of, two vectors, two vectors
    for word, tokens in (("photo", [2]), ("<g2>", [6, 7])):
        by_size: dict[tuple[int, int], list[np.ndarray]] = {}
        for q, k in zip(kept["q"], kept["k"], strict=True):
            q, k = (x[0].double().numpy().reshape(len(x[0]), heads, -1) for x in (q, k))
            scores = np.einsum("phc,thc->hpt", q, k) / math.sqrt(q.shape[-1])
            chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            found = chances.mean(0)[:, tokens].mean(-1)
            size = {96: (12, 8), 24: (6, 4), 6: (3, 2), 2: (2, 1)}[len(found)]
            by_size.setdefault(size, []).append(found.reshape(size))
        wanted = torch.zeros(12, 8, dtype=torch.float64)
        for maps in by_size.values():
            mean = torch.from_numpy(np.mean(maps, 0))[None, None]
            wanted += torch.nn.functional.interpolate(mean, (12, 8), mode="bilinear")[0, 0] / len(by_size)
        assert np.allclose(look.maps[word], wanted, atol=1e-6)
        share = float(wanted[:, :4].sum() / wanted.sum())
        assert look.share_inside(word) == pytest.approx(share, abs=0.02)  # the mask is the left half


def test_ordinary_words_and_prompts(build: Any) -> None:
    run = build({"words": ["photo of", "zebra"], "images": 1}, concepts=[], data={
        "images": str(GARP), "resolution": 64, "batch_size": 2})  # fmt: skip
    hook = run.config.hooks[0]
    (index,) = hook.select_images(run)
    with run.as_exported():
        look = hook.measure(run, index, hook.words)
    assert list(look.maps) == ["photo of"]
    assert look.mask is None
    hook.act(run)
    asked = hook.model_copy(update={"words": ("zebra",), "prompt": "a zebra"})
    assert len(asked.select_images(run)) == 1


def test_each_word_is_measured_by_the_mask_of_its_concept(build: Any, tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    for image in sorted(GARP.glob("*.png"))[:2]:
        with Image.open(image) as opened:
            mask = Image.new("L", opened.size)
        mask.paste(255, (mask.width // 2, 0, mask.width, mask.height))
        mask.save(tmp_path / "right" / image.name)
    data = {"images": str(GARP), "part": [0, 3], "masks": str(tmp_path / "masks"), "resolution": 64}
    data |= {"concept_masks": {"<b>": str(tmp_path / "right")}, "cache_dir": str(tmp_path / "cache")}
    data |= {"transforms": [{"kind": "replace", "words": {"garp": "<a> <b>"}}]}
    run = build({}, data=data, concepts=[{"words": "<a>", "init": "cat"}, {"words": "<b>", "init": "dog"}])
    hook = run.config.hooks[0]
    with run.as_exported():
        looks = [hook.measure(run, i, ("<a>", "<b>", "photo")) for i in (0, 2)]
    for word, side in (("<a>", 0), ("photo", 0), ("<b>", 1)):
        assert looks[0].masks[word][:, 4 * side : 4 * side + 4].mean() > 0.9
        assert looks[0].masks[word][:, 4 - 4 * side : 8 - 4 * side].mean() < 0.1
    assert np.array_equal(looks[1].masks["<b>"], looks[1].masks["<a>"])  # the third image has none of its own
    share = looks[0].maps["<b>"][:, 4:].sum() / looks[0].maps["<b>"].sum()
    assert looks[0].share_inside("<b>") == pytest.approx(share, abs=0.03)
    hook.act(run)


@pytest.mark.slow
def test_what_cannot_be_drawn_is_said_before_training(build: Any) -> None:
    run = build({"words": ["zebra"]})
    with pytest.raises(LorasmithError, match=r'none of the 6 captions contains any of "zebra"; .* a prompt'):
        run.config.hooks[0].start(run)
    run = build({}, concepts=[])
    with pytest.raises(LorasmithError, match="trains no new tokens"):
        run.config.hooks[0].start(run)


def test_words_stand_where_all_of_their_tokens_do() -> None:
    assert find_tokens([1, 5, 6, 2, 5, 7, 5, 6], [5, 6]).tolist() == [0, 1, 1, 0, 0, 0, 1, 1]
    assert find_tokens([1, 2], [9]).sum() == find_tokens([1, 2], []).sum() == 0


def test_a_watch_on_other_samples_is_an_error() -> None:
    maps = CrossAttentionMaps(torch.ones(2, 1, 77), (4, 4))
    with pytest.raises(ValueError, match="2 samples with 77 tokens, but the layers get 1 with 77"):
        maps.record(torch.zeros(1, 16, 8), torch.zeros(1, 77, 8), 2)
    with pytest.raises(ValueError, match="get 2 with 154"):
        maps.record(torch.zeros(2, 16, 8), torch.zeros(2, 154, 8), 2)
    maps.closed = True
    maps.record(torch.zeros(1, 16, 8), torch.zeros(1, 77, 8), 2)  # another pass, after the one that was watched
    assert not maps.by_size()


def test_a_watch_without_gradients_leaves_nothing_behind(build: Any) -> None:
    run = build(None)
    unet = run.family.unet
    layers = [m for m in unet.modules() if hasattr(m, "map_recorder")]
    with torch.no_grad(), record_maps(unet, torch.ones(1, 1, 77), (4, 4)):
        assert all(m.map_recorder is not None for m in layers)
    assert all(m.map_recorder is None for m in layers)
    with record_maps(unet, torch.ones(1, 1, 77), (4, 4)):
        pass
    assert all(m.map_recorder.closed for m in layers)


def test_colours_go_from_the_least_to_the_most() -> None:
    white = Image.new("RGB", (40, 20), "white")
    values = np.zeros((2, 4))
    values[:, 3] = 2.0
    found = heatmap(white, values)
    assert found.size == (40, 20)
    assert found.getpixel((2, 10)) == pytest.approx(COLOUR_STOPS[0][1], abs=12)
    assert found.getpixel((38, 10)) == pytest.approx(COLOUR_STOPS[-1][1], abs=12)
    assert heatmap(white, np.ones((2, 4))).getpixel((20, 10)) == COLOUR_STOPS[0][1]
    both = highlight_mask(white, values / 2)
    assert both.getpixel((38, 10)) == (255, 255, 255)
    assert max(both.getpixel((2, 10))) < 130  # type: ignore[arg-type]
