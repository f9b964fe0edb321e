"""The emoji world: generated images of real artwork whose every label is exact."""
