"""What the terms of a report mean, in a sentence or two each, for people who train their first LoRA."""

from __future__ import annotations

from collections.abc import Mapping

CHARTS: Mapping[str, str] = {
    "Loss": "How far the model's prediction is from the right one. Single steps jump, because each has other images "
    "and other noise: look at the mean. It falls only a little in most runs, and only pictures can say whether the "
    "LoRA is good.",
    "Terms of the loss": "Their sum is the loss. Moving averages over about a twentieth of the steps.",
    "Learning rate": "How large the steps of the training are.",
    "Gradient norm, before clipping": "How strongly a step pulls at the weights. Single peaks are usual, and clipping "
    "makes them smaller. If the mean keeps rising, the learning rate is too high.",
    "Validation loss by timestep": "How noisy the image is that the model has to improve: 0 is the image itself, and "
    "the highest number pure noise. Low timesteps decide on details, high ones on the composition.",
}
"""By the title of a chart."""
HELD_OUT = (
    "Validation images are never trained on. If their loss rises, the model learns the images by heart; pictures are "
    "not worse for that alone."
)
FACTS: Mapping[str, str] = {
    "adapters that got a gradient": "Each layer that is trained has an adapter. All of them should get a gradient, "
    "which is the direction in which they are changed.",
    "change of the weights": "|dW| / |W|: how large the change by the LoRA is, as a share of the weights of the base.",
    "by block": "The same for each part of the network, from its input (down) to its output (up).",
    "added into a base": "How much of the change is left when a program adds the LoRA into weights that are stored in "
    "so few bits.",
    "effective learning rate": "A LoRA is multiplied by alpha / rank, and its learning rate too.",
    "clipped steps": "Steps whose gradient was larger than optimizer.clip and was scaled down to it.",
    "timesteps seen": "Each step adds noise to the images, from a little to all of it. A LoRA that never saw some of "
    "these levels has not learned them.",
    "captions that are cut off": "What is behind the longest text that the model reads is not trained.",
    "goes with the trigger": "Words that are in nearly all captions that have the trigger.",
    "the trigger is read as": "The pieces (tokens) into which the model cuts the word.",
}
"""By how the label of a fact begins."""


def explanation_of(label: str) -> str:
    """What a fact means; empty for one that needs no explanation."""
    return next((text for start, text in FACTS.items() if label.startswith(start)), "")
