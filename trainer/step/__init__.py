"""A training step and the loop around it: data in, losses, gradients, optimiser, checkpoint."""
