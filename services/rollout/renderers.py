"""Renderers of published policies, kept while they are in use: loading a tokenizer takes longer than a turn."""

from collections import OrderedDict
from pathlib import Path

from cacherl.errors import DataError, InputError
from cacherl.rendering import Renderer

KEPT = 8


class Renderers:
    """By the files' own bytes: two versions of a policy share one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: OrderedDict[tuple[bytes, ...], Renderer] = OrderedDict()

    def at(self, path: str) -> Renderer:
        """The renderer of a policy directory below the weights root. Errors: InputError outside of it, DataError without a tokenizer."""
        folder = below(self._root, path)
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json")
        try:
            content = tuple((folder / name).read_bytes() if (folder / name).is_file() else b"" for name in names)
        except OSError as error:
            raise DataError(f"the policy at {path} cannot be read: {type(error).__name__}", slug="no-tokenizer") from error
        if content not in self._kept:
            self._kept[content] = Renderer.from_directory(folder)
        self._kept.move_to_end(content)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[content]


def below(root: Path, path: str) -> Path:
    """The folder `path` below `root`, links resolved. InputError where it would lie anywhere else."""
    root = root.resolve()
    folder = (root / path).resolve()
    if folder == root or not folder.is_relative_to(root):
        raise InputError("The path must lie below the shared weights root.", slug="path-outside-root")
    return folder
