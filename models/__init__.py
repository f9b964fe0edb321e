"""MM-Interleaved: the model, built on `mmfs`, transformers and diffusers."""

from models.batch import Batch
from models.config import MMInterleavedConfig
from models.mm_interleaved import MMInterleaved
from models.network import Output
from models.processor import MMInterleavedProcessor

__all__ = ["Batch", "MMInterleaved", "MMInterleavedConfig", "MMInterleavedProcessor", "Output"]
