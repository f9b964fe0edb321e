"""Vision encoders: one file for each family of transformers, against the interface in `interface.py`."""
