"""Heatmaps of the cross-attention of words while training, always on the same images of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.data.batch import Batch, BatchPlan, PlannedView
from lorasmith.families.base import Conditioning
from lorasmith.families.stable_diffusion import emphasis
from lorasmith.families.stable_diffusion.attention_maps import record_maps
from lorasmith.training.hooks.base import Hook
from lorasmith.training.step.batches import prepare_batch
from lorasmith.training.step.objectives.terms.attention_regularisation import concept_masks

if TYPE_CHECKING:
    from PIL import Image

    from lorasmith.training.run import Run

SIDE = 224
"""Length in pixels of the longer side of a picture."""
Map = NDArray[np.floating]


@dataclass(frozen=True)
class ImageAttention:
    """The attention of words on one image. All maps have the size (h, w) of the latents."""

    picture: Image.Image
    caption: str
    mask: Map | None
    """The mask of the image, in 0..1."""
    maps: dict[str, Map]
    """Attention by word, for the words that the caption contains."""
    masks: dict[str, Map]
    """Mask by word in 0..1, for the words whose place is known."""

    def share_inside(self, word: str) -> float | None:
        """The share of a word's attention that is inside its mask; None if there is no map or no mask."""
        if word not in self.masks or word not in self.maps:
            return None
        attention = self.maps[word]
        inside = float((attention * self.masks[word]).sum())
        return inside / max(float(attention.sum()), 1e-12)


class AttentionMaps(Hook):
    """Draws heatmaps of the attention of words on a few training images, into `attention/step-00000100.png`.

    A heatmap is the mean of a word's cross-attention over heads, layers, occurrences in the caption and `timesteps`.
    Noise and timesteps are the same each time, so the pictures differ only because the weights do. The number below a
    heatmap is the share of the word's attention that is inside the mask of its concept, whose outline is drawn. The
    number in parentheses is the mask's share of the image, which is what evenly distributed attention would give.
    """

    kind: Literal["attention_maps"] = "attention_maps"
    words: tuple[str, ...] = ()
    """New tokens or other words, such as `["cat"]`. Default: all new tokens."""
    images: int = Field(default=4, ge=1)
    """Number of images. They are spread evenly over those whose captions contain any of the words."""
    prompt: str = ""
    """Text that replaces the caption of each image."""
    timesteps: tuple[int, ...] = Field(default=(200, 400, 600), min_length=1)
    """Timesteps at which the attention is measured."""

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if there is nothing to draw."""
        self.select_images(run)
        super().start(run)

    def act(self, run: Run) -> None:
        from lorasmith.imaging.png import save_image

        step = run.state.step
        words = self.words_to_draw(run)
        with run.as_exported():
            images = [self.measure(run, index, words) for index in self.select_images(run)]

        path = run.folder / "attention" / f"step-{step:08d}.png"
        title = f"step {step}: attention of the words (yellow: most)"
        save_image(draw_grid(images, words, title), path)
        run.events.write(
            "attention",
            step,
            picture=run.relative_path(path),
            words=list(words),
            inside=mean_shares(images, words),
        )
        run.events.picture("attention", step, path)

    def words_to_draw(self, run: Run) -> tuple[str, ...]:
        """The words that heatmaps are drawn for. Raises LorasmithError if there are none."""
        words = self.words
        if not words and run.token_trainer is not None:
            words = tuple(word.text for word in run.token_trainer.vocabulary.tokens)
        if not words:
            raise LorasmithError(
                'attention_maps: this run trains no new tokens; give the words to draw, such as words = ["cat"]'
            )
        return words

    def select_images(self, run: Run) -> list[int]:
        """Indices of the images to draw, among the training images. Raises LorasmithError if no caption contains any of
        the words."""
        words = self.words_to_draw(run)
        count = len(run.dataset.records)
        matching = []
        for index in range(count):
            weights = token_weights(run, self.caption_of(run, index), words)
            if bool((weights > 0).any()):
                matching.append(index)
        if not matching:
            quoted = ", ".join(f'"{word}"' for word in words)
            raise LorasmithError(
                f"attention_maps: none of the {count} captions contains any of {quoted}; "
                f'give words that they contain, or a prompt = "a photo of {words[0]}"'
            )

        # evenly spread, the first and the last included
        selected = min(self.images, len(matching))
        last = len(matching) - 1
        distance = last / max(1, selected - 1)
        return [matching[round(i * distance)] for i in range(selected)]

    def caption_of(self, run: Run, index: int) -> str:
        """The text for an image: the prompt or the caption, changed only by transforms that are not random."""
        if self.prompt:
            return self.prompt
        # captions of held-out images are those without random transforms
        record = run.dataset.records[index]
        return run.dataset.caption(record, PlannedView(index, 0, 0), held_out=True)

    def measure(self, run: Run, index: int, words: Sequence[str]) -> ImageAttention:
        """The attention of the words on an image, at fixed timesteps with fixed noise."""
        from lorasmith.imaging.heatmap import resize_longer_side
        from lorasmith.imaging.png import to_image

        # the image alone, in its first view, with the text as it would be encoded in training
        dataset = run.dataset
        record = dataset.records[index]
        caption = self.caption_of(run, index)
        view = PlannedView(index, 0, 0)
        loaded = dataset.load(BatchPlan((view,), dataset.placement(record).bucket))
        batch = prepare_batch(run, replace(loaded, captions=[caption], conditioning=None))

        weights = token_weights(run, caption, words)
        attention = self.attention(run, batch, weights, index).cpu().numpy()
        maps = {}
        masks = {}
        for word, word_weights, word_attention in zip(words, weights, attention, strict=True):
            if bool(word_weights.sum() > 0):
                maps[word] = word_attention
            mask = mask_of_word(batch, word, run.family.vocabulary)
            if mask is not None:
                masks[word] = mask

        pixels = dataset.view(record, view).read()["pixels"]
        picture = resize_longer_side(to_image(pixels), SIDE)
        image_mask = concept_mask(batch, None, None)
        return ImageAttention(picture, caption, image_mask, maps, masks)

    def attention(self, run: Run, batch: Batch, weights: Tensor, index: int) -> Tensor:
        """(words, h, w): the attention of words on the grid of the latents, for a batch of one image.

        `weights`: (words, tokens), see `token_weights`. `index`: the index of the image, which seeds its noise.
        """
        family = run.family
        assert batch.latents is not None
        assert batch.conditioning is not None

        # the image once for each timestep, as one batch
        x0 = family.latents(batch.latents, None)
        # the same noise each time: it follows from the seed, the timestep and the image
        noises = []
        for timestep in self.timesteps:
            rng = StepRng(run.seed, timestep, [index], run.device)
            noises.append(rng.normal("attention maps", tuple(x0.shape[1:])))
        noise = torch.cat(noises)
        t = family.path.from_step(torch.tensor(self.timesteps, device=run.device))
        x_t = family.path.add_noise(x0.expand_as(noise), noise, t)
        conditioning = Conditioning.concat([batch.conditioning] * len(self.timesteps))
        batch_weights = weights.to(run.device).expand(len(self.timesteps), -1, -1)

        size = (x0.shape[2], x0.shape[3])
        with record_maps(family.denoiser, batch_weights, size) as maps:
            family.predict(x_t, t, conditioning)

        # the layers of one size are averaged already; each size counts the same
        by_size = []
        for layer_maps in maps.by_size().values():
            resized = F.interpolate(layer_maps, size, mode="bilinear", align_corners=False)
            by_size.append(resized.mean(0))
        return torch.stack(by_size).mean(0)


def token_weights(run: Run, caption: str, words: Sequence[str]) -> Tensor:
    """(words, tokens): for each word the weights of the caption's tokens. They are equal for all tokens of the word and
    sum to 1, or are 0 if the caption does not contain the word."""
    # the token ids that the text encoder gets: with weights such as (cat:1.2), the text without their syntax
    text = run.caption_encoding
    family = run.family
    if text.weighted:
        windows = text.max_tokens // emphasis.WINDOW
        ids = emphasis.ids_of(family, [caption], windows)[0]
    else:
        ids = family.tokenize([caption], text.max_tokens)
    caption_ids = ids.flatten().tolist()
    occurrences = torch.stack([find_tokens(caption_ids, family.tokens(word)) for word in words])
    # clamped, so that a word without occurrences has weights of 0
    return occurrences / occurrences.sum(1, keepdim=True).clamp(min=1)


def find_tokens(caption_ids: Sequence[int], word_ids: Sequence[int]) -> Tensor:
    """(tokens,): 1 where the token ids of a word occur one after the other, else 0."""
    mentioned = torch.zeros(len(caption_ids))
    if not word_ids:
        return mentioned
    for start in range(len(caption_ids) - len(word_ids) + 1):
        end = start + len(word_ids)
        if list(caption_ids[start:end]) == list(word_ids):
            mentioned[start:end] = 1
    return mentioned


def mask_of_word(batch: Batch, word: str, vocabulary: Vocabulary | None) -> Map | None:
    """(h, w): the mask of a word's concept, or that of the image if the word is not a new token; None if unknown."""
    concept = None if vocabulary is None else vocabulary.concept_of(word)
    return concept_mask(batch, concept, vocabulary)


def concept_mask(batch: Batch, concept: int | None, vocabulary: Vocabulary | None) -> Map | None:
    """(h, w): the mask of a concept in a batch of one image; with `concept` None that of the image. None if unknown."""
    masks, known = concept_masks(batch, None if concept is None else vocabulary)
    if masks is None or known is None:
        return None
    # there is one mask for all concepts, or one for each
    index = min(concept or 0, masks.shape[1] - 1)
    if not bool(known[0, index] > 0):
        return None
    return masks[0, index].cpu().numpy()


def mean_shares(images: Sequence[ImageAttention], words: Sequence[str]) -> dict[str, float]:
    """By word the mean share of its attention that is inside its mask, over the images where it is known."""
    means = {}
    for word in words:
        shares = [image.share_inside(word) for image in images]
        known = [share for share in shares if share is not None]
        if known:
            means[word] = sum(known) / len(known)
    return means


def draw_grid(images: Sequence[ImageAttention], words: Sequence[str], title: str) -> Image.Image:
    """A grid with one row for each image: the image, its mask if any image has one, and the heatmap of each word."""
    from lorasmith.imaging.grid import grid

    with_masks = any(image.mask is not None for image in images)
    columns = ["image", "mask", *words] if with_masks else ["image", *words]
    rows = [draw_row(image, words, with_masks) for image in images]
    captions = [image.caption for image in images]
    return grid(rows, row_labels=captions, column_labels=columns, title=title)


def draw_row(image: ImageAttention, words: Sequence[str], with_mask: bool) -> list[Image.Image]:
    """The pictures of one row, each with a line of text below it."""
    from PIL import Image

    from lorasmith.imaging.grid import add_caption
    from lorasmith.imaging.heatmap import HEATMAP_OUTLINE, heatmap, highlight_mask, outline_mask

    blank = Image.new("RGB", image.picture.size, "white")
    cells = [(image.picture, " ")]
    if with_mask and image.mask is None:
        cells.append((blank, "none"))
    elif image.mask is not None:
        cells.append((highlight_mask(image.picture, image.mask), f"{image.mask.mean():.0%} of the image"))

    for word in words:
        if word not in image.maps:
            cells.append((blank, "not in the caption"))
            continue
        picture = heatmap(image.picture, image.maps[word])
        text = " "
        if word in image.masks:
            picture = outline_mask(picture, image.masks[word], HEATMAP_OUTLINE)
            text = f"{image.share_inside(word):.0%} inside (even: {image.masks[word].mean():.0%})"
        cells.append((picture, text))
    return [add_caption(picture, text, below=True) for picture, text in cells]
