"""An update that breaks off half-way loses the engine: nothing is served from then on."""

import pytest
from gen_tiny_policy import SECOND, Published, prompt_tokens, sampling

from gen_cluster.engine import EngineLost
from gen_cluster.vllm_engine import VllmEngine
from gen_cluster.weight_engine import HeadraceWeightEngine

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("vllm")]


def test_a_parameter_left_unloaded_loses_the_engine(
    spoiled_engine: VllmEngine, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM itself says nothing of it: it would serve a mixture."""
    start = HeadraceWeightEngine.start_weight_update

    def expecting_one_more(self: HeadraceWeightEngine) -> None:
        start(self)
        self._expected |= {"model.layers.2.mlp.down_proj.weight"}

    monkeypatch.setattr(HeadraceWeightEngine, "start_weight_update", expecting_one_more)
    with pytest.raises(EngineLost, match=r"0/1/1 broke off.*unloaded: \['model.layers.2.mlp.down_proj.weight'\]"):
        spoiled_engine.update(published.source.fetch(SECOND))
    for use in (
        spoiled_engine.step,
        lambda: spoiled_engine.update(published.source.fetch(SECOND)),
        lambda: spoiled_engine.add("late", tokens=prompt_tokens(3), sampling=sampling(4), seed=0),
    ):
        with pytest.raises(EngineLost, match="half replaced"):
            use()
