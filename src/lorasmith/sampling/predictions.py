"""The network's prediction at one sampling step: classifier-free guidance (arXiv 2207.12598), regions and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning, Family
from lorasmith.families.stable_diffusion.conditioning import CONTEXT, steer
from lorasmith.families.stable_diffusion.steering import Area, Box, Regions, blend, cells
from lorasmith.sampling import programs
from lorasmith.sampling.condition_pictures import add_condition_pictures
from lorasmith.sampling.control import ControlModels, Window, add_residuals
from lorasmith.sampling.request import Request

Network = Callable[[Tensor, Tensor], Tensor]
"""x (B, C, h, w) and t (B,) to the network's output."""


class GuidedPrediction:
    """The guided prediction for a batch of requests with equal `batch_key`, with their regions and controls."""

    def __init__(self, family: Family, requests: Sequence[Request], models: ControlModels) -> None:
        self.family = family
        self.request = requests[0]  # for all that is equal in the batch
        height, width = self.request.height, self.request.width
        latent_size = (height // family.downscale, width // family.downscale)
        # Controls are prepared once for all steps.
        self.controls = [models.activate(control, height, width) for control in self.request.controls]

        # `texts` is (request, part, prompt and negative); encoding needs the requests of one part together
        picture_texts, *region_texts = zip(*(request.texts for request in requests), strict=True)
        self.conditioning = encode_prompts(family, picture_texts, self.request, (height, width))
        self.conditioning = add_condition_pictures(family, self.conditioning, requests, (height, width))
        self.window: Window = (0, 0, *latent_size)

        self.region_boxes: list[tuple[Box, float]] = []
        self.region_windows: list[Window] = []
        self.region_conditionings: list[Conditioning] = []
        areas: list[Area] = []
        for region, texts in zip(self.request.regions, region_texts, strict=True):
            box = region.relative_box(width, height)
            rows, columns = cells(box, *latent_size)
            # a region's picture has the size of its crop, which SDXL is conditioned on
            size = ((rows.stop - rows.start) * family.downscale, (columns.stop - columns.start) * family.downscale)
            conditioning = encode_prompts(family, texts, self.request, size)
            self.region_boxes.append((box, region.weight))
            self.region_windows.append((rows.start, columns.start, rows.stop, columns.stop))
            self.region_conditionings.append(conditioning)
            areas.append(Area(box, conditioning[CONTEXT], region.weight))
        if areas:
            family.require("regions", "regions")
            self.conditioning = steer(self.conditioning, regions=Regions(areas, latent_size))

    def __call__(self, x: Tensor, t: Tensor, step_fraction: float) -> Tensor:
        """The prediction from x and t as the network gets them. `step_fraction`: the part of the steps that is done.

        While regions are apart (`Request.apart`), each is predicted from its crop and its prompt alone, as in
        MultiDiffusion (arXiv 2302.08113).
        """
        whole = self._predict(x, t, self.conditioning, step_fraction, self.window)
        if step_fraction >= self.request.apart or not self.region_boxes:
            return whole

        # While regions are apart, a region is a crop of the latents with its own conditioning, as if it were a picture.
        def predict_region(index: int, rows: slice, columns: slice) -> Tensor:
            return self._predict(
                x[..., rows, columns], t, self.region_conditionings[index], step_fraction, self.region_windows[index]
            )

        return blend(whole, self.region_boxes, predict_region)

    def _predict(
        self, x: Tensor, t: Tensor, conditioning: Conditioning, step_fraction: float, window: Window
    ) -> Tensor:
        def network(x: Tensor, t: Tensor) -> Tensor:
            with_controls = add_residuals(conditioning, self.controls, (x, t), window, step_fraction)
            return self.family.predict(x, t, with_controls)

        # without guidance there are no negative prompts in the conditioning
        if self.request.cfg == 1:
            return network(x, t)
        return guide(network, x, t, cfg=self.request.cfg, rescale=self.request.rescale)


def encode_prompts(
    family: Family, texts: Sequence[Sequence[str]], request: Request, size: tuple[int, int]
) -> Conditioning:
    """Encode the texts of a batch: first all prompts, then, with guidance, all negative prompts.

    `texts`: for each request a prompt, or a pair of prompt and negative prompt. `size`: height and width in pixels,
    on which SDXL is conditioned as the size of an uncropped original.
    """
    # (request, role) becomes (role, request), so that `chunk(2)` separates positive from negative predictions
    batch = [text for same_role in zip(*texts, strict=True) for text in same_role]
    if request.like:
        conditioning = programs.find(request.like).encode(family, batch, clip_skip=request.clip_skip)
    else:
        conditioning = family.encode_text(batch, max_tokens=None, clip_skip=request.clip_skip, weighted=True)
    conditioning = family.add_guidance(conditioning, request.guidance)
    sizes = torch.tensor([size], device=family.device).expand(len(batch), 2)
    return family.add_sizes(conditioning, sizes, torch.zeros_like(sizes), sizes)


def guide(network: Network, x: Tensor, t: Tensor, *, cfg: float, rescale: float) -> Tensor:
    """Classifier-free guidance: negative + cfg (positive - negative), from one call of the network on a doubled batch.

    `rescale`, 0..1: how far the std of each sample is brought back to that of the positive prediction (arXiv
    2305.08891, section 3.4).
    """
    # one call with a doubled batch is faster than two calls; `encode_prompts` has the same order of texts
    positive, negative = network(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
    guided = negative + cfg * (positive - negative)
    if rescale:
        ratio = positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
        guided = guided * (rescale * ratio + 1 - rescale)
    return guided
