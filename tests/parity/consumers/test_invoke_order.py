"""Which base InvokeAI takes a file for, by two statements of its rule, on files of random layers in random order.

Both were also compared with its own function (August 2026) on 20,000 such files, without a difference.
"""

from __future__ import annotations

import random

import torch
from readers import READERS, Invoke
from torch import Tensor

from lorasmith.formats.invoke_base import FAMILY_BY_WIDTH, UNKNOWN_WIDTH, base_for_invoke

LAYERS = (
    *(f"lora_unet_mid_block_attentions_0_transformer_blocks_0_{x}" for x in ("attn1_to_k", "attn2_to_k", "attn2_to_v")),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
    "lora_unet_down_blocks_0_resnets_0_conv1",
    *(f"lora_te_text_model_encoder_layers_0_{x}" for x in ("self_attn_q_proj", "mlp_fc1", "layer_norm1")),
)


def kinds(width: int) -> list[dict[str, Tensor]]:
    ones = torch.ones
    return [
        {"alpha": ones(()), "lora_down.weight": ones(2, width), "lora_up.weight": ones(5, 2)},
        {"hada_w1_a": ones(5, 2), "hada_w1_b": ones(2, width), "hada_w2_a": ones(5, 2), "hada_w2_b": ones(2, width)},
        {"lokr_w1": ones(2, 4), "lokr_w2": ones(3, width // 4)},
        {"lokr_w1": ones(2, 4), "lokr_w2_a": ones(3, 2), "lokr_w2_b": ones(2, width // 4)},
        {"diff": ones(5, width), "diff_b": ones(5)},
        {"weight": ones(width), "on_input": ones(())},
        {"w_norm": ones(width), "b_norm": ones(width)},
    ]


def test_both_statements_of_the_rule_agree() -> None:
    draw = random.Random(0)
    reader = READERS["InvokeAI"]
    assert isinstance(reader, Invoke)
    answers: set[str | None] = set()
    for _ in range(1000):
        tensors: dict[str, Tensor] = {}
        for layer in draw.sample(LAYERS, draw.randint(1, 4)):
            # a time embedding has the same width in all published models
            width = 1280 if layer.endswith("time_emb_proj") else draw.choice([320, 768, 768, 1024, 2048])
            tensors |= {f"{layer}.{name}": tensor for name, tensor in draw.choice(kinds(width)).items()}
        told = reader.told(tensors)
        base, _ = base_for_invoke(tensors)
        assert base == (None if told is None else FAMILY_BY_WIDTH.get(told, UNKNOWN_WIDTH)), list(tensors)
        answers.add(base)
    assert answers == {None, "sd1", "sd2", "sdxl", UNKNOWN_WIDTH}
