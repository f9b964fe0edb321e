"""How well a model reads and draws documents of the emoji world that it was not trained on."""
