"""The thread that owns the model, and how the rest of the server talks to it: see `interface.py`."""
