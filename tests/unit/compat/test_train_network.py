"""What values of kohya's script mean: data, networks, optimizers, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from lorasmith.compat.kohya.regularisation import balance_repeats
from lorasmith.compat.script import Conversion, all_scripts, find_script
from lorasmith.compat.unsupported import UNSUPPORTED
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.training.config import load_config

Convert = Callable[..., Conversion]


def problems(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [p.where for p in error.value.problems]


def test_class_folders(convert: Convert, train_dir: Path) -> None:
    (train_dir / "img/none").mkdir()
    found = convert()
    subsets = [(s["images"], s["repeats"], s["caption"]) for s in found.config["data"]["subsets"]]
    assert subsets == [("img/1_b_c", 1, "b_c"), ("img/2_a", 2, "a")]
    assert any("img" not in note and "none" in note for note in found.notes)


def test_a_folder_that_is_elsewhere_stays_a_folder(convert: Convert) -> None:
    subsets = convert(train_data_dir="on/another/machine").config["data"]["subsets"]
    assert [(s["images"], s["class_folders"]) for s in subsets] == [("on/another/machine", True)]


def original_balance(repeats: list[int], train: int) -> list[int]:
    """As the description of the original says it: register, count, and go round again."""
    counts, n, i, first = [0] * len(repeats), 0, 0, True
    while n < train:
        step = repeats[i] if first else 1
        counts[i] += step
        n += step
        i += 1
        if i == len(repeats):
            i, first = 0, False
    return counts


@pytest.mark.parametrize(("repeats", "train"), [([1] * 4, 7), ([2, 2, 1], 3), ([1] * 10, 4), ([3], 20), ([1], 0)])
def test_regularisation_images_come_as_often_as_the_others(repeats: list[int], train: int) -> None:
    found = balance_repeats(repeats, train)
    assert found == original_balance(repeats, train)
    assert sum(found) >= train


def test_regularisation_in_parts(convert: Convert) -> None:
    """Three images twice and one once are seven; four regularisation images come 2, 2, 2, 1 times."""
    subsets = convert(reg_data_dir="reg", prior_loss_weight=0.5).config["data"]["subsets"]
    found = [(s.get("part"), s["repeats"], s["loss_weight"]) for s in subsets if s["images"].startswith("reg")]
    assert found == [([0, 3], 2, 0.5), ([3, 4], 1, 0.5)]


def test_the_order_in_which_a_value_is_searched(convert: Convert, train_dir: Path) -> None:
    (train_dir / "d.toml").write_text(
        "[general]\nresolution = 64\nkeep_tokens = 1\nflip_aug = true\nshuffle_caption = true\n"
        "[[datasets]]\nkeep_tokens = 2\n"
        '[[datasets.subsets]]\nimage_dir = "img/2_a"\nkeep_tokens = 0\nflip_aug = false\n'
        '[[datasets.subsets]]\nimage_dir = "img/1_b_c"\n'
        '[[datasets.subsets]]\nimage_dir = "img/2_a"\nnum_repeats = 9\n'
        '[[datasets.subsets]]\nimage_dir = "reg/1_c"\nnum_repeats = 0\n'
    )
    found = convert(dataset_config="d.toml", caption_dropout_rate=0.25, train_batch_size=3, resolution="128")
    data = found.config["data"]
    assert (data["resolution"], data["batch_size"]) == (64, 3)
    kinds = [{t["kind"]: t for t in s["transforms"]} for s in data["subsets"]]
    assert [k["shuffle"]["keep"] for k in kinds] == [0, 2]
    assert ["flip" in k for k in kinds] == [False, True]
    assert [k["caption_dropout"]["rate"] for k in kinds] == [0.25, 0.25]
    assert len([n for n in found.notes if "is ignored" in n and "subsets" in n]) == 2


def test_a_dataset_config_is_checked_whole(convert: Convert, train_dir: Path) -> None:
    (train_dir / "d.json").write_text(
        '{"general": {"shufle_caption": true}, "datasets": [{"batch_size": "x", "subsets": [{"num_repeats": 2}]}]}'
    )
    with pytest.raises(ConfigError) as error:
        convert(dataset_config="d.json")
    assert set(problems(error)) == {"general.shufle_caption", "datasets.0.batch_size", "datasets.0.subsets.0"}
    assert "shuffle_caption" in str(error.value)


def test_captions_in_the_originals_order(convert: Convert) -> None:
    values = {"caption_prefix": "p", "caption_suffix": "s", "caption_dropout_rate": 0.1, "shuffle_caption": True}
    values |= {"token_warmup_step": 0.5, "token_warmup_min": 2, "keep_tokens": 1}
    config = load_config(convert(**values, caption_tag_dropout_rate=0.2, flip_aug=True).config)
    kinds = [t.kind for t in config.data.subsets[0].transforms]  # type: ignore[attr-defined]
    assert kinds == ["template", "caption_dropout", "tag_warmup", "shuffle", "tag_dropout", "flip"]
    assert config.data.subsets[0].transforms[0]("x", Random(0)) == "p x s"  # type: ignore[operator]


def test_images_in_the_originals_order(convert: Convert, train_dir: Path) -> None:
    (train_dir / "d.toml").write_text(
        '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img/2_a"\nface_crop_aug_range = [1.5, 3.0]\n'
        "color_aug = true\nflip_aug = true\nrandom_crop = true\n"
    )
    transforms = load_config(convert(dataset_config="d.toml").config).data.sources[0].transforms
    assert [t.model_dump()["kind"] for t in transforms] == ["face_crop", "random_crop", "color", "flip"]
    assert transforms[0].model_dump(include={"closest", "widest", "wander"}) == {
        "closest": 1.5,
        "widest": 3.0,
        "wander": True,
    }
    with pytest.raises(ConfigError, match="two numbers in order"):
        convert(face_crop_aug_range="4,2")


def test_metadata_of_images(convert: Convert, train_dir: Path) -> None:
    from lorasmith.data.scan import find_images

    (train_dir / "m.json").write_text('{"0": {"caption": "x", "tags": "y, z"}, "1.png": {"tags": "y"}}')
    config = load_config(convert(in_json="m.json", train_data_dir="img/2_a", dataset_repeats=2).config)
    found, wrong = find_images(config.data.subsets[0], "data")
    assert wrong == []
    assert [(f.path.name, f.captions, f.repeats) for f in found] == [("0.png", ("x, y, z",), 2), ("1.png", ("y",), 2)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"kind": "lora", "rank": 4, "alpha": 1.0, "layers": "attention-mlp"}),
        ({"network_dim": 8, "network_alpha": 0}, {"rank": 8, "alpha": 8}),
        ({"network_args": ["conv_dim=2"]}, {"layers": "full", "conv_rank": 2, "conv_alpha": 1.0}),
        ({"network_module": "lycoris.kohya", "network_dim": 6}, {"conv_rank": 6, "conv_alpha": 1.0}),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=8", "full_matrix=True"]},
            {"kind": "lokr", "factor": 8, "full_matrix": True},
        ),
        (
            {"network_module": "lycoris.kohya", "network_args": ["dora_wd=True", "conv_dim=0"]},
            {"kind": "dora", "over": "lora", "axis": "input"},
        ),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=diag-oft"], "network_dim": 8}, {"block_size": 8}),
        (
            {"network_module": "networks.dylora", "network_args": ["unit=2"], "network_dim": 8},
            {"kind": "dylora", "unit": 2, "boost": 0.5, "rank": 8, "alpha": 1.0, "layers": "attention-mlp"},
        ),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=dylora", "block_size=2"], "network_dim": 8},
            {"kind": "dylora", "unit": 2, "boost": 1.0},
        ),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=dylora"]}, {"kind": "dylora", "unit": 4}),
        (
            {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "train_norm=True"]},
            {"kind": "lokr", "norms": True},
        ),
    ],
)
def test_networks(convert: Convert, values: dict[str, Any], expected: dict[str, Any]) -> None:
    adapter = convert(**values).config["adapter"]
    assert {key: adapter.get(key) for key in expected} == expected


def test_blocks(convert: Convert) -> None:
    """Weights and ranks land on the layers that the original's numbers mean."""
    dims = ",".join(str(i + 1) for i in range(25))
    args = [f"block_dims={dims}", "down_lr_weight=1,0.5,1,1", "mid_lr_weight=0", "up_lr_weight=zeros+0.5"]
    config = load_config(convert(network_args=args).config)
    attention = "unet.{}.attentions.{}.proj_in".format
    for place, (rank, rate) in {
        attention("down_blocks.0", 0): (2, 0.5),
        attention("down_blocks.2", 1): (9, 1.0),
        attention("up_blocks.1", 0): (17, 0.5),
        attention("up_blocks.3", 2): (25, 0.5),
    }.items():
        own, factor = config.adapter.for_layer(place)
        assert (getattr(own, "rank"), factor) == (rank, rate), place  # noqa: B009
    assert "!unet.mid_block.*" in config.adapter.layers


@pytest.mark.parametrize(
    "given", ["block_dims=1,2", "down_lr_weight=x", "algo", "loraplus_lr_ratio=x", "conv_dim=a", "mid_lr_weight=sinus"]
)
def test_wrong_network_arguments(convert: Convert, given: str) -> None:
    with pytest.raises(ConfigError) as error:
        convert(network_args=[given])
    assert problems(error)[0].startswith("network_args")


def test_lora_plus_and_lora_fa(convert: Convert) -> None:
    args = ["loraplus_lr_ratio=4", "loraplus_text_encoder_lr_ratio=2"]
    adapter: Any = load_config(convert(network_args=args).config).adapter
    assert (adapter.up_lr_of("unet"), adapter.up_lr_of("te")) == (4, 2)
    frozen: Any = load_config(convert(network_module="networks.lora_fa").config).adapter
    assert (frozen.kind, frozen.freeze_down) == ("lora", True)


def test_unknown_network_arguments_are_mentioned(convert: Convert) -> None:
    assert any('did you mean "conv_dim"' in note for note in convert(network_args=["conv_dims=4"]).notes)


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({"learning_rate": 1e-3}, (1e-3, 1e-3)),
        ({"learning_rate": 1e-3, "unet_lr": 0}, (0, 1e-3)),
        ({"learning_rate": 1e-3, "text_encoder_lr": "5e-5"}, (1e-3, 5e-5)),
        ({"learning_rate": "1e-3", "text_encoder_lr": []}, (1e-3, 1e-3)),
        ({"text_encoder_lr": [1e-4, 2e-4], "network_train_text_encoder_only": True}, (0, 1e-4)),
        ({"network_train_unet_only": 1}, (2e-6, 0)),
    ],
)
def test_learning_rates(convert: Convert, values: dict[str, Any], rates: tuple[float, float]) -> None:
    optimizer = load_config(convert(**values).config).optimizer
    assert (optimizer.rate("unet"), optimizer.rate("te")) == rates


def test_optimizer_arguments(convert: Convert) -> None:
    args = ["weight_decay=0.1", "betas=.9,.99"]
    optimizer = load_config(convert(optimizer_type="ADAMW", optimizer_args=args).config).optimizer
    built = optimizer.build([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0, "name": "x"}])
    assert (built.defaults["weight_decay"], built.defaults["betas"]) == (0.1, (0.9, 0.99))
    other = load_config(convert(optimizer_type="AdamW", optimizer_args=["amsgrad=True"]).config).optimizer
    assert other.build([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}]).defaults["amsgrad"] is True
    sgd = load_config(convert(optimizer_type="SGDNesterov").config).optimizer
    built = sgd.build([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}])
    assert (built.defaults["momentum"], built.defaults["nesterov"]) == (0.9, True)


def test_schedules_by_class_and_in_pieces(convert: Convert) -> None:
    own = {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size=3", "gamma=0.5"]}
    assert convert(**own).config["lr_schedule"] == {
        "kind": "class", "name": "StepLR", "args": {"step_size": 3, "gamma": 0.5}
    }  # fmt: skip
    pieces = {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:10,0.1:20,0.01"]}
    assert convert(**pieces).config["lr_schedule"] == {
        "kind": "piecewise_constant", "pieces": [[1.0, 10], [0.1, 20]], "end": 0.01
    }  # fmt: skip


def test_schedule_free_optimizers_get_no_schedule(convert: Convert) -> None:
    config = convert(optimizer_type="AdamWScheduleFree", lr_scheduler="cosine").config
    assert config["optimizer"]["name"] == "schedulefree.AdamWScheduleFree"
    assert config["lr_schedule"] == {"kind": "constant"}


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"lr_scheduler": "banana"}, "lr_scheduler"),
        ({"lr_scheduler": "piecewise_constant"}, "lr_scheduler_args.step_rules"),
        ({"lr_scheduler": "cosine", "lr_scheduler_args": ["power=2"]}, "lr_scheduler_args.power"),
        ({"network_module": "networks.banana"}, "network_module"),
        ({"network_module": None}, "network_module"),
        ({"pretrained_model_name_or_path": ""}, "pretrained_model_name_or_path"),
        ({"train_data_dir": ""}, "train_data_dir"),
        ({"max_token_length": 80}, "max_token_length"),
        ({"full_fp16": True}, "full_fp16"),
        ({"full_bf16": True, "mixed_precision": "fp16"}, "full_bf16"),
        ({"adaptive_noise_scale": 0.1}, "adaptive_noise_scale"),
        ({"scale_v_pred_loss_like_noise_pred": True}, "scale_v_pred_loss_like_noise_pred"),
        ({"v_pred_like_loss": 0.1, "v_parameterization": True}, "v_pred_like_loss"),
        ({"huggingface_repo_id": "one"}, "huggingface_repo_id"),
        ({"resolution": "a"}, "resolution"),
        ({"resize_interpolation": "nearer"}, "resize_interpolation"),
    ],
)
def test_refusals(convert: Convert, values: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        convert(**values)
    assert problems(error) == [where]


def test_files_go_where_the_original_writes_them(convert: Convert) -> None:
    found = convert(output_dir="a", output_name="b").config
    assert (found["output"], found["name"], found["export"]["folder"]) == ("a/b", "b", "a")
    assert convert(output_name=None).config["name"] == "last"
    assert load_config(convert(save_model_as="ckpt").config).export.container == "ckpt"


def test_left_overs_of_interfaces_are_harmless(convert: Convert) -> None:
    values = {"epoch": 1, "dynamo_backend": "no", "max_token_length": 75, "lr_scheduler_args": [], "sample_prompts": ""}
    found = convert(**values, noise_offset=0.0, persistent_data_loader_workers=0, reg_data_dir="", in_json="")
    assert found.config == convert().config
    assert any("epoch" in note for note in found.notes)


def test_the_command_line_over_the_file(train_dir: Path) -> None:
    (train_dir / "a.toml").write_text("[x]\nnetwork_dim = 4\nseed = 3\n[y]\nnetwork_dim = 8\nshuffle_caption = true\n")
    parsed = find_script("train_network").parse(["--config_file", "a", "--seed=5"])
    assert (parsed.values["network_dim"], parsed.values["seed"], parsed.values["shuffle_caption"]) == (8, 5, True)


def test_output_config_writes_what_was_given(train_dir: Path) -> None:
    script = find_script("train_network")
    said = script.parse(["--network_dim=8", "--flip_aug", "--config_file=new", "--output_config"])
    assert "new.toml" in said.done_message
    again = script.parse(["--config_file=new"])
    assert {k: again.values[k] for k in again.given - {"config_file"}} == {"network_dim": 8, "flip_aug": True}
    with pytest.raises(Exception, match="new file"):
        script.parse(["--config_file=new", "--output_config"])
    with pytest.raises(Exception, match="name of a new file"):
        script.parse(["--config_file=", "--output_config"])


def test_captions_of_several_lines(convert: Convert, train_dir: Path) -> None:
    """Their first line, as in the original without wildcards."""
    from lorasmith.data.scan import find_images

    (train_dir / "img/2_a/0.txt").write_text("\none\ntwo\n")
    subsets = load_config(convert(caption_extension="txt").config).data.subsets
    captions = {f.path.name: f.captions for f in find_images(subsets[1], "data")[0]}
    assert captions == {"0.png": ("one",), "1.png": ("a",), "2.png": ("a",)}


@pytest.mark.parametrize(("args", "unet"), [([], 192), (["conv_dim=4"], 278)])
def test_modules_of_the_full_model(convert: Convert, args: list[str], unet: int) -> None:
    """72 of the text encoder, 192 or 278 of the UNet, of which 50 are 3x3: the original's counts."""
    from lorasmith.adapters.attach import select_layers
    from lorasmith.families.stable_diffusion import layer_names
    from lorasmith.families.stable_diffusion.presets import PRESETS

    config = load_config(convert(network_args=args, network_dim=8).config)
    places = {spec.name: spec for spec in layer_names.layers("sd1") if spec.kind != "norm"}
    found = select_layers(config.adapter.layers, places, PRESETS)  # type: ignore[arg-type]
    assert sum(name.startswith("te.") for name in found) == 72
    assert sum(name.startswith("unet.") for name in found) == unet
    assert sum(tuple(places[name].shape[2:]) == (3, 3) for name in found) == (50 if args else 0)


def test_datasets_of_several_resolutions(convert: Convert, train_dir: Path) -> None:
    from lorasmith.data.dataset import Dataset

    (train_dir / "d.toml").write_text(
        '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "img/2_a"\n'
        '[[datasets]]\nresolution = [32, 64]\n[[datasets.subsets]]\nimage_dir = "img/2_a"\n'
    )
    config = load_config(convert(dataset_config="d.toml", resolution=None).config)
    data = Dataset.build(config.data, seed=0)
    assert [data.placement(record).bucket for record in data.records] == [(64, 64)] * 3 + [(32, 64)] * 3


def test_small_images_are_left_out_of_the_datasets_that_say_so(convert: Convert, train_dir: Path) -> None:
    """`skip_image_resolution`: by area, the image of exactly this size too, before regularisation is balanced."""
    from lorasmith.data.dataset import Dataset

    for folder, sides in {"multi": (64, 65, 128), "few": (64, 96)}.items():
        (train_dir / folder).mkdir()
        for side in sides:
            Image.new("RGB", (side, side), (side, 9, 9)).save(train_dir / folder / f"{side}.png")
    subsets = (
        '[[datasets.subsets]]\nimage_dir = "multi"\nclass_tokens = "a"\n'
        '[[datasets.subsets]]\nimage_dir = "few"\nclass_tokens = "a"\nis_reg = true\n'
    )
    (train_dir / "d.toml").write_text(
        f"[[datasets]]\nresolution = 64\n{subsets}[[datasets]]\nresolution = 128\nskip_image_resolution = [64, 64]\n"
        f"{subsets}"
    )
    config = load_config(convert(dataset_config="d.toml", resolution=None, reg_data_dir=None).config)
    assert [subset.larger_than for subset in config.data.subsets] == [None] * 3 + [64, 64]
    records = Dataset.build(config.data, seed=0).records
    found = [(record.path.name, record.repeats, record.resolution) for record in records]
    assert found == [
        *(("64.png", 1, None), ("65.png", 1, None), ("128.png", 1, None)),
        *(("64.png", 2, None), ("96.png", 1, None)),
        *(("65.png", 1, (128, 128)), ("128.png", 1, (128, 128)), ("96.png", 2, (128, 128))),
    ]
    # the option of the command line holds for every dataset that has no value of its own
    config = load_config(convert(dataset_config="d.toml", resolution=None, skip_image_resolution="96").config)
    assert [subset.larger_than for subset in config.data.subsets] == [96, 64, 64]


@pytest.mark.parametrize(("sdxl", "text"), [(False, {"clip_skip": 2}), (True, None)])
def test_clip_skip_is_ignored_for_sdxl_as_in_the_original(sdxl: bool, text: Any) -> None:
    from lorasmith.compat.kohya.general import convert_text
    from lorasmith.compat.kohya.train_network import SdxlTrainNetwork

    notes: list[str] = []
    values = {"max_token_length": 75, "clip_skip": 2, "weighted_captions": False}
    assert convert_text(values, notes, [], sdxl=sdxl) == (text or {})
    assert [note.partition(" for SDXL")[0] for note in notes] == (["clip_skip is ignored"] if sdxl else [])
    assert SdxlTrainNetwork.sdxl


@pytest.mark.parametrize(
    ("name", "word"),
    [("train_leco", "LECO"), ("sd-scripts/sdxl_train_leco.py", "LECO"), ("lumina_train_network.py", "family")],
)
def test_scripts_that_cannot_be_run_are_refused_by_what_they_are(name: str, word: str) -> None:
    with pytest.raises(LorasmithError, match=word):
        find_script(name)
    assert not UNSUPPORTED.keys() & all_scripts().keys()


def test_datasets_have_batches_and_buckets_of_their_own(convert: Convert, train_dir: Path) -> None:
    from lorasmith.data.dataset import Dataset

    start = '[[datasets]]\nresolution = {}\nbatch_size = {}\n{}[[datasets.subsets]]\nimage_dir = "img/2_a"\n'
    buckets = "enable_bucket = true\nmin_bucket_reso = 64\nmax_bucket_reso = 192\n"
    (train_dir / "d.toml").write_text(start.format(64, 2, "") + start.format(128, 1, buckets))
    for i, size in enumerate(((8, 8), (24, 8), (8, 24))):
        Image.new("RGB", size, (i, 0, 0)).save(train_dir / f"img/2_a/{i}.png")
    config = load_config(convert(dataset_config="d.toml", resolution=None, validation_split=0.0).config)
    data = Dataset.build(config.data, seed=0)
    sizes = sorted((plan.bucket, len(plan.views)) for plan in data.epoch(0))
    assert sizes == [((64, 64), 1), ((64, 64), 2), ((64, 192), 1), ((128, 128), 1), ((192, 64), 1)]
    text = (train_dir / "d.toml").read_text()
    (train_dir / "d.toml").write_text(text.replace("batch_size = 1", "batch_size = 1\nvalidation_split = 0.4"))
    with pytest.raises(ConfigError) as error:
        convert(dataset_config="d.toml")
    assert problems(error) == ["datasets.1.validation_split"]
    (train_dir / "d.toml").write_text(f"[general]\nvalidation_split = 0.4\n{text}")
    data = Dataset.build(load_config(convert(dataset_config="d.toml").config).data, seed=0)
    held = {record.digest for record in data.validation}
    assert len(held) == 1
    assert not held & {record.digest for record in data.records}  # neither at the other resolution


def test_images_that_are_to_stay_as_they_are(convert: Convert, train_dir: Path) -> None:
    start = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img/2_a"\n'
    (train_dir / "d.toml").write_text(f"{start}custom_attributes = {{ diff_output_preservation = true, other = 1 }}\n")
    source = load_config(convert(dataset_config="d.toml").config).data.sources[0]
    assert source.preserve
    assert source.may_be_held_out, "sd-scripts keeps only regularisation images from validation"
    (train_dir / "d.toml").write_text(f"{start}custom_attributes = 3\n")
    with pytest.raises(ConfigError, match="diff_output_preservation"):
        convert(dataset_config="d.toml")


def test_regularisation_images_are_not_held_out(convert: Convert, train_dir: Path) -> None:
    from lorasmith.data.dataset import Dataset

    for i, path in enumerate(sorted(train_dir.rglob("*.png"))):
        Image.new("RGB", (8, 8), (i, 9, 9)).save(path)
    for seed in range(5):
        config = load_config(convert(reg_data_dir="reg", validation_split=0.5, seed=seed).config)
        data = Dataset.build(config.data, seed=seed)
        assert len(data.validation) == 2
        assert all("reg" not in record.path.parts for record in data.validation)


@pytest.mark.parametrize("args", [[], ["relative_step=False", "scale_parameter=False", "warmup_init=False"]])
def test_adafactor(convert: Convert, args: list[str]) -> None:
    from transformers.optimization import Adafactor

    values = {"optimizer_type": "AdaFactor", "optimizer_args": args, "learning_rate": 1e-3}
    optimizer = load_config(convert(**values).config).optimizer
    weight = torch.nn.Parameter(torch.ones(4, 4))
    expected = torch.nn.Parameter(torch.ones(4, 4))
    own = dict(argument.split("=") for argument in args)
    theirs = Adafactor([expected], lr=1e-3 if args else None, **{k: v == "True" for k, v in own.items()})
    built = optimizer.build([{"params": [weight], "lr": 1e-3}])
    for parameter, stepper in ((weight, built), (expected, theirs)):
        parameter.grad = torch.full((4, 4), 0.5)
        stepper.step()
    assert torch.equal(weight, expected)
    assert not torch.equal(weight, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [
        (None, ["a:1", "c:1"]),
        ([0.5], ["a:0.5", "c:1"]),
        ([0, -1, 3], ["a:0", "c:-1"]),
    ],
)
def test_what_is_merged_has_its_multiplier_or_one(
    convert: Convert, strengths: list[float] | None, expected: list[str]
) -> None:
    found = convert(base_weights=["a", "c"], base_weights_multiplier=strengths)
    assert found.config["merge"] == expected
    assert any("to sample with it" in note for note in found.notes)
    assert any("3 numbers for 2 files" in note for note in found.notes) == (strengths == [0, -1, 3])
    alone = convert(base_weights_multiplier=[0.5])
    assert "merge" not in alone.config
    assert any("1 numbers for 0 files" in note for note in alone.notes)


def test_regularisation_images_without_weight_are_not_trained_on(convert: Convert) -> None:
    subsets = convert(reg_data_dir="reg", prior_loss_weight=0).config["data"]["subsets"]
    assert {s["loss_weight"] for s in subsets if s["images"].startswith("reg")} == {0.0}


def test_both_names_of_tucker(convert: Convert) -> None:
    found = convert(network_module="lycoris.kohya", network_args=["algo=loha", "use_tucker=True", "use_cp=True"])
    assert found.config["adapter"]["tucker"] is True
    assert not any("use_cp" in note for note in found.notes)


def test_validation_needs_images(convert: Convert, train_dir: Path) -> None:
    """Without a split there is nothing to measure; the split of a dataset config counts as well."""
    found = convert(validate_every_n_steps=5, validation_seed=1)
    assert "validation" not in found.config
    for name in ("validate_every_n_steps", "validation_seed"):
        assert any(note.startswith(f"{name} is ignored") and "validation_split" in note for note in found.notes)
    (train_dir / "d.toml").write_text(
        "[general]\nvalidation_split = 0.5\n[[datasets]]\nresolution = 64\n"
        '[[datasets.subsets]]\nimage_dir = "img/2_a"\n'
    )
    assert convert(dataset_config="d.toml", validate_every_n_steps=5).config["validation"] == {"every_steps": 5}


@pytest.mark.parametrize("name", ["resume", "vae", "network_weights", "reg_data_dir", "dataset_config"])
def test_false_in_place_of_a_text_means_without_it(name: str, convert: Convert) -> None:
    assert convert(**{name: False}).config == convert().config


@pytest.mark.parametrize(("module", "kind"), [("networks.loha", "loha"), ("networks.lokr", "lokr")])
def test_native_loha_and_lokr(module: str, kind: str, convert: Convert) -> None:
    """The layers of networks.lora; sizes as there; what selects layers by name is refused and not ignored."""
    plain = convert(network_module=module, network_dim=8, network_alpha=2).config["adapter"]
    assert (plain["kind"], plain["rank"], plain["alpha"], plain["layers"]) == (kind, 8, 2, "attention-mlp")
    arguments = ["conv_dim=4", "use_tucker=True", "rank_dropout=0.1", *(["factor=8"] if kind == "lokr" else [])]
    found = convert(network_module=module, network_args=arguments)
    adapter = found.config["adapter"]
    assert (adapter["conv_rank"], adapter["conv_alpha"], adapter["layers"]) == (4, 1.0, "full")
    assert (adapter["tucker"], adapter["rank_dropout"], adapter.get("factor")) == (
        True,
        0.1,
        8 if kind == "lokr" else None,
    )
    assert not any("unknown" in note for note in found.notes)
    with pytest.raises(ConfigError) as error:
        convert(network_module=module, network_args=["network_reg_dims=attn1=4"])
    assert problems(error) == ["network_args.network_reg_dims"]
