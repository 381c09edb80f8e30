"""Engines that run training processes: this machine, or the nodes of a cluster. Importing this package imports no torch
and no engine."""

from lorasmith.training.executors.base import Ended, Executor, Handle, Session, Task, make_executor

__all__ = ["Ended", "Executor", "Handle", "Session", "Task", "make_executor"]
