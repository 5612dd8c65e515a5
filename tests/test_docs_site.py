"""The documentation's site: builds strictly (no broken link or anchor), shows every page, and fetches nothing. 3 s."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {path.stem for path in (ROOT / "docs").glob("*.md")}
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//"""
)
FETCHED_BY_STYLE = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"requirements/install docs?\n{done.stderr}"
    return folder


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    """A page that the navigation leaves out fails the build; this one fails where the build would not."""
    home = (site / "index.html").read_text()
    for page in PAGES - {"index"}:
        assert (site / page / "index.html").exists()
        assert f'href="{page}/"' in home, f"mkdocs.yml: nav lacks {page}.md"


def test_a_reader_fetches_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert FETCHED.search(path.read_text()) is None, path
    for path in site.rglob("*.css"):
        assert FETCHED_BY_STYLE.search(path.read_text()) is None, path


def test_drawings_are_whole(site: Path) -> None:
    assert "experience buffer" in (site / "picture.svg").read_text()
    assert 'src="picture.svg"' in (site / "index.html").read_text()
    assert 'src="../picture.svg"' in (site / "concepts" / "index.html").read_text()
