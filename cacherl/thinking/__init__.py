"""The hybrid thinking pipeline (method §2): reasoning is added to trajectories that show what was called but not why.

classify     what kind of turn it is          leaks       refuses traces that know the future
teacher      the seam of those who write       provenance  the built-in teacher, without an LLM
openai       any OpenAI-compatible endpoint    traces      written traces by content hash, so a re-run costs nothing
pipeline     augment: streaming, bounded, counted
"""

from cacherl.thinking.classify import TurnKind, classify
from cacherl.thinking.leaks import Leaks
from cacherl.thinking.openai import OpenAITeacher
from cacherl.thinking.pipeline import AugmentCounts, augment
from cacherl.thinking.provenance import ProvenanceTeacher
from cacherl.thinking.teacher import Question, Teacher, Thought
from cacherl.thinking.traces import FileTraces, MemoryTraces, Traces

__all__ = [
    "AugmentCounts",
    "FileTraces",
    "Leaks",
    "MemoryTraces",
    "OpenAITeacher",
    "ProvenanceTeacher",
    "Question",
    "Teacher",
    "Thought",
    "Traces",
    "TurnKind",
    "augment",
    "classify",
]
