"""TensorRT engines: their profiles, their build, and whether a built one fits this machine."""
