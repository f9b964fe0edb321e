"""Attentions of transformers' models that compute with `ms_deform_attn`, one model in a file.

`mmfs.replace_attention` puts them into a model, and imports a file only for a model that needs it: mmfs itself does not
need transformers. Most models keep the sampling in a module or function of its own, which is replaced alone; those in
RT-DETRv2, Mask2Former and OneFormer call a function of their file, so the attention around it is replaced. Ours is a
subclass of theirs, because transformers finds what it records (`output_attentions=True`) by class.
"""
