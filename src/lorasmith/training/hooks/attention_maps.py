"""Pictures of where words look, while training: on images of the data set, always the same ones."""

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
from lorasmith.families.base import Cond
from lorasmith.families.stable_diffusion import emphasis
from lorasmith.families.stable_diffusion.attention_maps import Maps, watched
from lorasmith.training.hooks.base import Hook
from lorasmith.training.step.batches import prepare_batch
from lorasmith.training.step.objectives.terms.attention_regularisation import masks_of

if TYPE_CHECKING:
    from PIL import Image

    from lorasmith.training.run import Run

SIDE = 224
"""Pixels of the longer side of a picture."""
Map = NDArray[np.floating]


@dataclass(frozen=True)
class Looked:
    """What one image shows: `maps` by word (h, w), those of words that its caption has; `masks` by word in 0..1, of
    words whose place is known; `mask`: the image's own."""

    picture: Image.Image
    caption: str
    mask: Map | None
    maps: dict[str, Map]
    masks: dict[str, Map]

    def inside(self, word: str) -> float | None:
        """The share of a word's attention that is inside its mask; None without either."""
        if word not in self.masks or word not in self.maps:
            return None
        found = self.maps[word]
        return float((found * self.masks[word]).sum() / max(float(found.sum()), 1e-12))


class AttentionMaps(Hook):
    """Draws where words look on a few training images, into `attention/step-00000100.png`.

    A map is the mean of a word's cross-attention over heads, layers, mentions and `timesteps`. Noise and timesteps are
    the same each time, so that pictures differ only because the weights do. The figure on each is the share of the
    word's attention that lies inside its concept's mask, whose line is drawn; beside it stands the mask's share of the
    image, which is what an even look would give.
    """

    kind: Literal["attention_maps"] = "attention_maps"
    words: tuple[str, ...] = ()
    """New words or others, such as `["cat"]`. Default: all new words."""
    images: int = Field(default=4, ge=1)
    """So many, spread over those whose captions have any of the words."""
    prompt: str = ""
    """Said of each image in place of its caption."""
    timesteps: tuple[int, ...] = Field(default=(200, 400, 600), min_length=1)

    def start(self, run: Run) -> None:
        """Find out before training whether there is anything to draw."""
        self.chosen(run)
        super().start(run)

    def act(self, run: Run) -> None:
        from lorasmith.imaging.png import save_image

        words = self.shown(run)
        with run.as_exported():
            looks = [self.look(run, index, words) for index in self.chosen(run)]
        path = run.folder / "attention" / f"step-{run.state.step:08d}.png"
        save_image(sheet(looks, words, f"step {run.state.step}: where the words look"), path)
        place = path.relative_to(run.folder).as_posix()
        run.events.write("attention", run.state.step, picture=place, words=list(words), inside=shares(looks, words))
        run.events.picture("attention", run.state.step, path)

    def shown(self, run: Run) -> tuple[str, ...]:
        """The words whose maps are drawn. Raises LorasmithError if there are none."""
        new = () if run.token_trainer is None else tuple(w.text for w in run.token_trainer.vocabulary.words)
        words = self.words or new
        if not words:
            raise LorasmithError('attention_maps: this run learns no new words; name others, as words = ["cat"]')
        return words

    def chosen(self, run: Run) -> list[int]:
        """Places of the images among those that are trained on. Raises LorasmithError if no caption has a word."""
        words, records = self.shown(run), run.dataset.records
        having = [i for i in range(len(records)) if any(self.columns(run, self.said(run, i), words).sum(1) > 0)]
        if not having:
            listed = ", ".join(f'"{word}"' for word in words)
            raise LorasmithError(
                f"attention_maps: none of the {len(records)} captions has any of {listed}; "
                f'give words that they have, or a prompt = "a photo of {words[0]}"'
            )
        count = min(self.images, len(having))
        return [having[round(i * (len(having) - 1) / max(1, count - 1))] for i in range(count)]

    def said(self, run: Run, index: int) -> str:
        """What is said of an image: its caption, with the transforms that leave nothing to chance."""
        return self.prompt or run.dataset.caption(run.dataset.records[index], PlannedView(index, 0, 0), held_out=True)

    def columns(self, run: Run, caption: str, words: Sequence[str]) -> Tensor:
        """(words, tokens): for each word the weights of its tokens, which sum up to 1, or are 0 if it is not there."""
        text, family = run.config.text, run.family
        if text.weighted:
            ids = emphasis.ids_of(family, [caption], text.max_tokens // emphasis.WINDOW)[0]
        else:
            ids = family.tokenize([caption], text.max_tokens)
        row = ids.flatten().tolist()
        found = torch.stack([places(row, family.tokens(word)) for word in words])
        return found / found.sum(1, keepdim=True).clamp(min=1)

    def look(self, run: Run, index: int, words: Sequence[str]) -> Looked:
        """The maps of an image, at fixed timesteps with fixed noise, without gradients."""
        from lorasmith.imaging.heatmap import resize_longer_side
        from lorasmith.imaging.png import to_image

        dataset, record, caption = run.dataset, run.dataset.records[index], self.said(run, index)
        item = PlannedView(index, 0, 0)
        batch = dataset.load(BatchPlan((item,), dataset.placement(record).bucket))
        batch = prepare_batch(run, replace(batch, captions=[caption], cond=None))
        columns = self.columns(run, caption, words)
        maps = self.maps(run, batch, columns, index)
        picture = resize_longer_side(to_image(dataset.view(record, item).read()["pixels"]), SIDE)
        said = [bool(column.sum() > 0) for column in columns]
        found = {w: m.cpu().numpy() for w, m, there in zip(words, maps, said, strict=True) if there}
        masks = {word: mask for word in words if (mask := mask_for(batch, word, run.family.vocabulary)) is not None}
        return Looked(picture, caption, mask_for(batch, "", None), found, masks)

    def maps(self, run: Run, batch: Batch, columns: Tensor, index: int) -> Tensor:
        """(words, h, w) on the grid of the latents. `index`: the image's place, which its noise follows."""
        family, times = run.family, self.timesteps
        assert batch.moments is not None
        assert batch.cond is not None
        x0 = family.latents(batch.moments, None)
        draws = [StepRng(run.config.seed, t, [index], run.device) for t in times]
        noise = torch.cat([rng.normal("attention maps", tuple(x0.shape[1:])) for rng in draws])
        t = torch.tensor(times, device=run.device)
        x_t = family.schedule.add_noise(x0.expand_as(noise), noise, t)
        size = (x0.shape[2], x0.shape[3])
        each = columns.to(run.device)[None].expand(len(times), -1, -1)
        with watched(family.unet, each, size) as maps:
            family.predict(x_t, t, Cond.concat([batch.cond] * len(times)))
        return on_latents(maps, size)


def mask_for(batch: Batch, word: str, vocabulary: Vocabulary | None) -> Map | None:
    """(h, w): where a word of a batch of one is, by its concept's mask, else the image's; None if nothing is known."""
    number = None if vocabulary is None else vocabulary.concept_of(word)
    masks, known = masks_of(batch, None if number is None else vocabulary)
    if masks is None or known is None:
        return None
    place = min(number or 0, masks.shape[1] - 1)  # one mask for all concepts, or one for each
    return masks[0, place].cpu().numpy() if bool(known[0, place] > 0) else None


def places(row: Sequence[int], word: Sequence[int]) -> Tensor:
    """(tokens,): 1 where the ids of a word stand, one after the other."""
    found = torch.zeros(len(row))
    for start in range(len(row) - len(word) + 1) if word else ():
        if list(row[start : start + len(word)]) == list(word):
            found[start : start + len(word)] = 1
    return found


def on_latents(maps: Maps, size: tuple[int, int]) -> Tensor:
    """(kinds, h, w): the mean over samples and sizes, each brought to `size`."""
    each = [F.interpolate(m, size, mode="bilinear", align_corners=False).mean(0) for m in maps.by_size().values()]
    return torch.stack(each).mean(0)


def shares(looks: Sequence[Looked], words: Sequence[str]) -> dict[str, float]:
    """By word the mean share of its attention that is inside the masks, over the images that tell."""
    found = {word: [s for look in looks if (s := look.inside(word)) is not None] for word in words}
    return {word: sum(values) / len(values) for word, values in found.items() if values}


def sheet(looks: Sequence[Looked], words: Sequence[str], title: str) -> Image.Image:
    """One row for each image: as it is, its mask if any image has one, and the map of each word."""
    from lorasmith.imaging.grid import grid

    masks = any(look.mask is not None for look in looks)
    rows = [cells(look, words, masks) for look in looks]
    heads = ["image", *(["mask"] if masks else []), *words]
    captions = [look.caption for look in looks]
    return grid(rows, row_labels=captions, column_labels=heads, title=f"{title} (yellow: most)")


def cells(look: Looked, words: Sequence[str], masks: bool) -> list[Image.Image]:
    """The pictures of one row."""
    from PIL import Image

    from lorasmith.imaging.grid import add_caption
    from lorasmith.imaging.heatmap import HEATMAP_OUTLINE, heatmap, highlight_mask, outline_mask

    def below(picture: Image.Image, text: str) -> Image.Image:
        return add_caption(picture, text, below=True)

    found = [below(look.picture, " ")]
    if masks and look.mask is None:
        found.append(below(Image.new("RGB", look.picture.size, "white"), "none"))
    elif look.mask is not None:
        found.append(below(highlight_mask(look.picture, look.mask), f"{look.mask.mean():.0%} of the image"))
    for word in words:
        inside = look.inside(word)
        text = " " if inside is None else f"{inside:.0%} inside (even: {look.masks[word].mean():.0%})"
        if word in look.maps:
            shown = heatmap(look.picture, look.maps[word])
            found.append(
                below(outline_mask(shown, look.masks[word], HEATMAP_OUTLINE) if word in look.masks else shown, text)
            )
        else:
            found.append(below(Image.new("RGB", look.picture.size, "white"), "not in the caption"))
    return found
