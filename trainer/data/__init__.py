"""Documents of interleaved text and images, and how they become a :class:`models.batch.Batch`."""
