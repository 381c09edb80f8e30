"""Interrupts and starves runs, and counts what is lost: `python -m tools.torture --count 200` (`make torture N=200`).

Each case is a short run on the built-in base. It is killed or stopped at a random moment or at the n-th operation
on a file of its folder, or it meets a fault: a full disk, a folder that is gone, a damaged checkpoint. Then it is
continued without the fault. A case is survived if no process ended with a traceback and the run came to its end; it is
exact if its LoRA is, bit for bit, that of a run that was left in peace.
"""
