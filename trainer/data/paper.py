"""The paper's pre-training data (4.1 and B.1) as settings; where the text is silent, as in the released code."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.data.config import CorpusConfig, SourceConfig


def paper_pairs(manifest: str) -> SourceConfig:
    """Images with captions: LAION-2B-en, LAION-COCO, or CC-12M and Objects365 with captions of BLIP-2.

    Captions have 10 characters or more. The release means a quarter of its documents to be 2 to 8 pairs, and learns no
    text without an image before it. A row has room for about 25 pairs of 64 visual tokens.
    """
    return SourceConfig(
        manifest,
        min_caption_chars=10,
        few_shot=0.25,
        few_shot_pairs=(2, 8),
        text_loss_needs_image=True,
        max_images_per_row=30,
    )


def paper_mmc4(manifest: str) -> SourceConfig:
    """Interleaved documents: MMC4, sampled twice as often as each set of pairs.

    The release's batches of MMC4 have twice as many rows besides, so that a weight of 4 is its share of the tokens.
    """
    return SourceConfig(
        manifest,
        weight=2.0,
        min_similarity=0.24,
        max_images=6,
        keep_no_image=0.0,
        keep_one_image=0.5,
        split=True,
        max_images_per_row=15,
    )


def paper_corpus(
    pairs: Mapping[str, str], mmc4: str, *, num_rows: int, tokenizer_file: str | None = None
) -> CorpusConfig:
    """The mixture, in rows of 2,048 tokens.

    Args:
        pairs: manifests of image-caption pairs, by a name for each.
        mmc4: the manifest of MMC4.
        num_rows: rows in a batch; the paper's have about 360.
        tokenizer_file: the language model's.
    """
    sources = {name: paper_pairs(manifest) for name, manifest in pairs.items()} | {"mmc4": paper_mmc4(mmc4)}
    return CorpusConfig(sources, num_rows=num_rows, row_tokens=2048, tokenizer_file=tokenizer_file)
