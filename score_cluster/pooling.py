"""A reward model on vLLM's pooling runner: for one that is larger than a GPU, shared out by tensor parallelism."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experience.schema import Int32Array
from score_cluster.reward_config import Precision
from score_cluster.reward_model import check_reward_folder

logger = logging.getLogger(__name__)

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: two imports of 10 s less
    "VLLM_CONFIGURE_LOGGING": "0",  # through our handlers, not to stdout
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # a model is a local folder
}
"""Read by vLLM while it is imported."""

SEQUENCES = 64
"""In the engine at a time; each needs one pass and holds its cache no longer."""
CACHE_GIB = 1
"""On CPU, where vLLM asks for a size: a pass's keys and values, some thousand tokens of a model that fits a CPU."""


class VllmRewardModel:
    """`score_cluster.reward_model.RewardModel` by vLLM. One per process: its distributed state is global."""

    def __init__(self, path: str, *, precision: Precision, tensor_parallel: int, threads: int, field: str) -> None:
        """Takes seconds. ValueError: not the folder of a reward model; an architecture that vLLM does not pool.

        threads: of CPU kernels, set for the whole process. field: of the recipe, for errors.
        """
        check_reward_folder(path, field=field)
        os.environ.update(ENVIRONMENT)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else vLLM serves on one
        logging.getLogger("vllm").setLevel(logging.WARNING)
        import torch  # after the environment is set

        torch.set_num_threads(threads)
        self._engine = _start(path, precision=precision, tensor_parallel=tensor_parallel)
        if "classify" not in self._engine.get_supported_tasks():
            tasks = ", ".join(self._engine.get_supported_tasks())
            raise ValueError(f"{field} = {path}: vLLM offers {tasks} for it and no score; set engine: hf")
        config = self._engine.model_config
        self.vocabulary = int(config.get_vocab_size())
        self.context_tokens = int(config.max_model_len)
        self._asked = 0
        logger.info("reward model loaded by vLLM", extra={"path": path, "tensor_parallel": tensor_parallel})

    def scores(self, sequences: Sequence[Int32Array]) -> list[float]:
        """See `RewardModel`. ValueError: vLLM refuses one of them; none is scored then."""
        from vllm.exceptions import VLLMClientError

        places = {str(self._asked + place): place for place in range(len(sequences))}
        self._asked += len(sequences)
        out = [0.0] * len(sequences)
        try:
            for request, place in places.items():
                self._add(request, sequences[place])
            while places:
                for output in self._engine.step():
                    (value,) = output.outputs.data.float().tolist()
                    out[places.pop(output.request_id)] = value
        except VLLMClientError as error:
            raise ValueError(str(error)) from error
        finally:
            self._engine.abort_request(list(places))
        return out

    def _add(self, request: str, tokens: Int32Array) -> None:
        from vllm import PoolingParams
        from vllm.inputs import tokens_input

        params = PoolingParams(task="classify", use_activation=False)  # the score itself, not a probability
        self._engine.add_request(request, tokens_input(tokens.tolist()), params)

    def close(self) -> None:
        from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

        self._engine.engine_core.shutdown()
        destroy_model_parallel()
        destroy_distributed_environment()


def _start(path: str, *, precision: Precision, tensor_parallel: int) -> Any:
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    if current_platform.is_cpu():
        torch.compiler.set_stance("force_eager")  # what it compiles there is a sampler's, and nothing is sampled
    arguments = EngineArgs(
        model=path,
        runner="pooling",
        skip_tokenizer_init=True,  # tokens in, a score out
        dtype=precision,
        max_num_seqs=SEQUENCES,
        enforce_eager=True,  # one pass a sequence: nothing to be gained by graphs
        kv_cache_memory_bytes=CACHE_GIB * 1024**3 if current_platform.is_cpu() else None,
        tensor_parallel_size=tensor_parallel,
        distributed_executor_backend="uni" if tensor_parallel == 1 else "mp",
        disable_log_stats=True,
    )
    return LLMEngine.from_engine_args(arguments)
