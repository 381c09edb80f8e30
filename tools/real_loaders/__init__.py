"""What A1111, Forge and ComfyUI themselves make of our files: `python -m tools.real_loaders --a1111 FOLDER ...`.

Runs the programs' own loaders from folders with their source code, which is not part of this repository, on small
random bases on the CPU, and writes tests/parity/consumers/programs.json. What is not about LoRA (user interface,
memory management, the models themselves) is replaced by stand-ins; names of keys, products of factors, and what is
refused come from the programs' code.
"""
