"""All options of `train_network`, by subject."""

from lorasmith.compat.kohya.options import (
    captions,
    data,
    model,
    network,
    objective,
    optimizer,
    previews,
    running,
    saving,
)

SECTIONS = {
    "Model": model.OPTIONS,
    "Data": data.OPTIONS,
    "Captions": captions.OPTIONS,
    "Network": network.OPTIONS,
    "Optimizer and schedule": optimizer.OPTIONS,
    "Loss, noise, timesteps": objective.OPTIONS,
    "Steps, precision, memory": running.OPTIONS,
    "Files and states": saving.OPTIONS,
    "Previews, log, metadata, validation": previews.OPTIONS,
}
OPTIONS = tuple(option for options in SECTIONS.values() for option in options)
"""Of `train_network`."""
SDXL_OPTIONS = data.SDXL_OPTIONS
"""Further options of `sdxl_train_network`."""
