"""Networks that judge drawn images: Inception, CLIP and a segmenter. The user has the weights; nothing is fetched."""
