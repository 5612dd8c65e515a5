"""The token of a Ray of a run's own: drawn where there is none, taken where there is one. What Ray itself does with it is
seen by tests/loop/test_loop_watched.py. Seconds go to importing Ray."""

import os

import pytest

from orchestrator import ray_token


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tokens that stood in the environment when Ray was told to ask for one."""
    seen: list[str] = []
    monkeypatch.setattr(
        ray_token.ray_authentication, "_enable_token_auth", lambda: seen.append(os.environ["RAY_AUTH_TOKEN"])
    )
    return seen


@pytest.mark.parametrize("before", [None, ""])
def test_a_token_is_drawn_where_there_is_none_and_kept(
    before: str | None, asked_for: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", before or "")
    if before is None:
        monkeypatch.delenv("RAY_AUTH_TOKEN")
    ray_token.require_token()
    ray_token.require_token()
    first, second = asked_for
    assert first == second
    assert len(bytes.fromhex(first)) == 32


def test_a_token_that_is_there_is_taken(asked_for: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-user")
    ray_token.require_token()
    assert asked_for == ["of-the-user"]
