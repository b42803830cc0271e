from pathlib import Path

import pytest

from cacherl.rendering import Renderer
from cacherl.testing import tiny_tokenizer


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def renderer(policy_folder: Path) -> Renderer:
    return Renderer.from_directory(policy_folder)
