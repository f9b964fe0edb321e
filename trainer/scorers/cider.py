"""CIDEr-D of captions (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", 2015), as the official
program of COCO computes it: what papers call CIDEr."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from trainer.scorers.ptb_tokens import ptb_tokens

MAX_N = 4
"""n-grams of 1 to 4 words count alike."""

SIGMA = 6.0
"""Width, in bigrams, of the penalty for another length."""


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The score of each caption.

    How rare an n-gram is, is counted in the references of the images given: a part of a split is another metric, and
    one image alone scores 0.

    Args:
        captions: one an image.
        references: one or more for each image, in the same order.

    Returns:
        float64 [images], 0 to 10. Papers print 100 times the mean.

    Raises:
        ValueError: not as many lists of references as captions, or an image without references.
    """
    return cider_of_tokens(
        [ptb_tokens(caption) for caption in captions], [[ptb_tokens(text) for text in texts] for texts in references]
    )


def cider_of_tokens(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """As :func:`cider`, for texts that are split into words already."""
    if len(captions) != len(references):
        raise ValueError(
            f"There are {len(captions)} captions for {len(references)} lists of references; expected one each."
        )
    missing = [index for index, texts in enumerate(references) if not texts]
    if missing:
        raise ValueError(f"references[{missing[0]}] is empty; expected at least one reference an image.")
    num_images = len(captions)
    if num_images == 0:
        return np.zeros(0)
    # All texts in one row: the captions, then the references. A text is known by its number in it.
    texts = [*captions, *chain.from_iterable(references)]
    lengths = np.array([len(words) for words in texts])
    image_of_text = np.concatenate(
        [np.arange(num_images), np.repeat(np.arange(num_images), [len(its) for its in references])]
    )
    vocabulary: dict[str, int] = {}
    words = np.array(
        [vocabulary.setdefault(word, len(vocabulary)) for word in chain.from_iterable(texts)], dtype=np.int64
    )
    text_of_word = np.repeat(np.arange(len(texts)), lengths)
    left_in_text = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))

    num_references = np.bincount(image_of_text[num_images:], minlength=num_images)
    length_difference = np.maximum(lengths - 1, 0)[:num_images][image_of_text] - np.maximum(lengths - 1, 0)
    similarity = np.zeros(len(texts))
    grams = words
    for n in range(1, MAX_N + 1):
        if n > 1:  # an n-gram is known by the number of its first n - 1 words, and the last word
            following = np.concatenate([words[n - 1 :], np.zeros(min(n - 1, len(words)), dtype=np.int64)])
            grams = np.unique(grams * len(vocabulary) + following, return_inverse=True)[1]
        whole = left_in_text >= n
        similarity += _cosines(grams[whole], text_of_word[whole], image_of_text, num_images)
    similarity *= np.exp(-(length_difference**2) / (2 * SIGMA**2)) / MAX_N
    summed = np.bincount(image_of_text[num_images:], weights=similarity[num_images:], minlength=num_images)
    return 10 * summed / num_references


def _cosines(grams: np.ndarray, text_of_gram: np.ndarray, image_of_text: np.ndarray, num_images: int) -> np.ndarray:
    """How alike the n-grams of each reference are to those of its image's caption; 0 for the captions themselves.

    Args:
        grams: [n-grams of all texts] the number of each.
        text_of_gram: [n-grams of all texts] the text it stands in.
        image_of_text: [texts] captions first.
    """
    num_texts, num_grams = len(image_of_text), int(grams.max(initial=0)) + 1
    # One entry for each text and each n-gram in it, sorted by text, then by n-gram.
    entries, counts = np.unique(text_of_gram * num_grams + grams, return_counts=True)
    text, gram = np.divmod(entries, num_grams)
    in_reference = text >= num_images
    seen = np.unique(image_of_text[text[in_reference]] * num_grams + gram[in_reference]) % num_grams
    frequency = np.bincount(seen, minlength=num_grams)
    weight = counts * (np.log(num_images) - np.log(np.maximum(frequency, 1)))[gram]
    norm = np.sqrt(np.bincount(text, weights=weight**2, minlength=num_texts))
    # Each entry of a reference, and the entry of its image's caption with the same n-gram if there is one.
    num_in_captions = np.searchsorted(text, num_images)
    sought = image_of_text[text[in_reference]] * num_grams + gram[in_reference]
    place = np.searchsorted(entries[:num_in_captions], sought)
    found = np.zeros(len(sought), dtype=bool)
    inside = place < num_in_captions
    found[inside] = entries[place[inside]] == sought[inside]
    reference_weight = weight[in_reference][found]
    product = np.minimum(weight[place[found]], reference_weight) * reference_weight
    dot = np.bincount(text[in_reference][found], weights=product, minlength=num_texts)
    norms = norm * norm[image_of_text]
    return np.divide(dot, norms, out=np.zeros(num_texts), where=norms > 0)
