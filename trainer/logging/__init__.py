"""The log of a run: metrics, charts, Weights & Biases."""
