"""Training with the own code of other programs, for benchmarks/quality_peers.py."""
