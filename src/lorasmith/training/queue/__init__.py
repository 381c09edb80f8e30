"""A queue of runs: jobs of ordinary configs that are trained one after the other, or one on each GPU.

A queue is a folder and nothing else, so it survives a restart of the machine, and any number of programs may look at it
and change it. Importing this package does not import torch.
"""

from lorasmith.training.queue.folder import NewJob, Queue
from lorasmith.training.queue.job import Job
from lorasmith.training.queue.runner import Runner, run_queue

__all__ = ["Job", "NewJob", "Queue", "Runner", "run_queue"]
