"""How the turns of a chat are marked: the words of Vicuna, the paper's language model."""

USER = "USER:"
ASSISTANT = " ASSISTANT:"
