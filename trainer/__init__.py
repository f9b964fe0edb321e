"""The run: pre-training of a :class:`models.MMInterleaved`, its data and its evaluation."""
