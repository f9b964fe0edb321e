from dataclasses import replace

from trainer.config import EncoderPretrainingConfig, OptimConfig
from trainer.data.config import CorpusConfig, DataConfig, SourceConfig
from trainer.options.changed_settings import changed_settings
from trainer.recipes import tiny
from trainer.system_config import CheckpointConfig, LoggingConfig, MemoryConfig, ParallelConfig


def test_changed_settings_names_what_matters():
    before = tiny()
    housekeeping = replace(
        before,
        out="x",
        num_workers=3,
        max_minutes=1.0,
        parallel=ParallelConfig(shard_size=1),
        memory=MemoryConfig(image_chunk=1),
        logging=LoggingConfig(every=7),
        checkpoint=CheckpointConfig(every=1, keep_latest=9),
    )
    assert changed_settings(before.to_dict(), housekeeping) == []
    after = replace(before, seed=1, optim=OptimConfig(lr=0.5, warmup_steps=before.optim.warmup_steps))
    assert changed_settings(before.to_dict(), after) == ["optim.lr: 0.001 -> 0.5", "seed: 0 -> 1"]
    older = {**before.to_dict(), "dropped": 1}
    assert changed_settings(older, before) == ["dropped: 1 -> absent"]


def test_what_was_saved_before_a_setting_existed_had_its_default():
    now = replace(tiny(), encoder_pretraining=EncoderPretrainingConfig(), corpus=CorpusConfig({"a": SourceConfig("m")}))
    saved = now.to_dict()
    for group, name in (
        (saved, "lora"),
        (saved["optim"], "gate_lr_factor"),
        (saved["model"]["visual_tokenizer"], "num_visual_tokens"),
        (saved["corpus"]["sources"]["a"], "held_out"),
    ):
        del group[name]
    num = now.model.visual_tokenizer.num_visual_tokens  # 64 is the default
    told = f"model.visual_tokenizer.num_visual_tokens: absent -> {num}"
    assert changed_settings(saved, now) == [told]
    held_out = replace(now, corpus=CorpusConfig({"a": SourceConfig("m", held_out=3)}))
    assert changed_settings(saved, held_out) == ["corpus.sources.a.held_out: absent -> 3", told]


def test_what_an_older_dictionary_lacks_is_no_setting():
    now = replace(tiny(), data=DataConfig())
    task, *others = now.data.tasks
    assert others, "a dictionary with something left in it"
    saved = now.to_dict()
    del saved["data"]["tasks"][task]
    assert changed_settings(saved, now) == [f"data.tasks.{task}: absent -> {now.data.tasks[task]}"]
