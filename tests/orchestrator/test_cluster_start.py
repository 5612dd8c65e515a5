"""A Ray of the run's own that does not come up: a line that a person can act on, and nothing left behind."""

import pytest
import ray
from orchestrator_recipes import a_recipe

from orchestrator.cluster import local_ray
from orchestrator.errors import RunFailed


def test_a_ray_that_does_not_start_ends_the_run_in_one_line(monkeypatch):
    def too_slow(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(RunFailed) as failed, local_ray(a_recipe(), with_workers=True):
        pytest.fail("there is no cluster to live in")
    assert "Ray did not start: The current node timed out during startup.; remedy: `headrace doctor`" in str(
        failed.value
    )
    assert "\n" not in str(failed.value)
