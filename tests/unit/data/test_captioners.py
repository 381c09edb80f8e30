"""Captions by a model in a local folder. The models here are tiny and random, or compute something known: what they say
is not tested, but that a real model of each kind is loaded, asked and written down as its makers do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorasmith import LorasmithError, api
from lorasmith.data.captioners.tagger import pixels_of


@pytest.fixture
def tagger(tmp_path: Path) -> Path:
    """A model whose probabilities are the mean blue, green and red of the picture."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path / "tagger"
    folder.mkdir()
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "selected_tags.csv").write_text(
        "tag_id,name,category,count\n0,blue_sky,0,1\n1,green,9,1\n2,red_hair,4,1\n"
    )
    return folder


def test_tags_are_written_where_there_is_no_caption(tmp_path: Path, tagger: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 20), (255, 255, 120)).save(folder / "a.png")
    Image.new("RGB", (20, 20), (200, 255, 255)).save(folder / "b.png")
    Image.new("RGB", (20, 20)).save(folder / "c.png")
    (folder / "c.txt").write_text("written by hand")
    report = api.caption(folder, tagger, prefix="garp, ", settings={"device": "cpu"})
    # the most probable first, with spaces, without the rating
    assert report.written == {"a.png": "garp, red hair, blue sky", "b.png": "garp, blue sky, red hair"}
    assert (folder / "b.txt").read_text() == "garp, blue sky, red hair\n"
    assert (report.kept, (folder / "c.txt").read_text()) == (["c.png"], "written by hand")
    api.caption(folder, tagger, overwrite=True, settings={"threshold": 0.6, "device": "cpu"})
    assert (folder / "a.txt").read_text() == "red hair\n"


def test_pictures_reach_the_tagger_on_a_white_square_blue_first() -> None:
    pixels = pixels_of(Image.new("RGB", (8, 4), (255, 0, 10)), 8)
    assert (pixels.shape, pixels.dtype) == ((1, 8, 8, 3), np.float32)
    assert pixels[0, 0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 4, 4].tolist() == [10, 0, 255]


@pytest.fixture
def blip(tmp_path: Path) -> Path:
    """A BLIP of random weights, with twelve words."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path / "blip"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "red", "robot", "on", "the", "grass"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    text = {"vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 32, **small, **ids}
    config = BlipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 16, **small}, projection_dim=8)
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_captioning_model_of_transformers_is_asked_as_its_makers_do(
    blip: Path, pictures: Callable[..., Path]
) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    folder = pictures(2)
    report = api.caption(folder, blip, overwrite=True, settings={"device": "cpu", "max_tokens": 5})

    model, processor = BlipForConditionalGeneration.from_pretrained(blip), BlipProcessor.from_pretrained(blip)
    for name in ("00.png", "01.png"):
        inputs = processor(images=Image.open(folder / name), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=5)[0]
        assert report.written[name] == processor.decode(tokens, skip_special_tokens=True) != ""


def test_what_is_no_model_is_refused_before_anything_is_written(
    tmp_path: Path, tagger: Path, pictures: Callable[..., Path]
) -> None:
    folder = pictures(1)
    with pytest.raises(LorasmithError, match="holds no model that is known"):
        api.caption(folder, folder)
    with pytest.raises(LorasmithError, match="is not a folder"):
        api.caption(folder, tmp_path / "missing")
    with pytest.raises(LorasmithError, match="threshold"):
        api.caption(folder, tagger, settings={"threshold": 7})
    (tagger / "model.onnx").write_bytes(b"no model")
    with pytest.raises(LorasmithError, match=r"model.onnx: cannot be loaded"):
        api.caption(folder, tagger, overwrite=True)
    assert (folder / "00.txt").read_text() == "a photo of garp, number 0"
