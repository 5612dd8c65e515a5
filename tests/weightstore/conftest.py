from collections.abc import Callable
from pathlib import Path

import pytest

from weightstore.blobs import BlobStore, FileBlobStore


@pytest.fixture(params=["file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BlobStore]:
    """Opens the same store again, as another process would; one parameter per implementation."""
    return {"file": lambda: FileBlobStore(tmp_path / "store")}[request.param]


@pytest.fixture
def store(reopen: Callable[[], BlobStore]) -> BlobStore:
    return reopen()
