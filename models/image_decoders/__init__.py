"""Image decoders: one file each for what a U-Net is conditioned on, over one interface, `ImageDecoder`."""
