"""Importers: one file per log format → `Trajectory`, strict, counted, and streaming where the format allows.

`import_file(path)` recognises the format by content. What a format means by scenario, task and outcome stands at the head of its file.
"""

from cacherl.importers.recognise import FORMATS, import_file, recognise
from cacherl.importers.result import Counts, Importer, ImportResult

__all__ = ["FORMATS", "Counts", "ImportResult", "Importer", "import_file", "recognise"]
