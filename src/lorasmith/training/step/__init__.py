"""The training step: batches, objective, gradients, optimizer, and the loop around them."""
