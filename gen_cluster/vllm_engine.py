"""The one adapter around vLLM: engine and scheduler in this process, weights only from the store."""

import gc
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from experience.schema import Int32Array, Sampling, VersionSpan
from gen_cluster.config import EngineConfig
from gen_cluster.engine import EngineLost, Finished, WeightsRefused
from weightstore.fetch import CorruptVersion, FetchedVersion
from weightstore.manifest import WeightVersion

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: two imports of 10 s less
    "VLLM_CONFIGURE_LOGGING": "0",  # through our handlers, not to stdout
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # a model is a local folder
}
"""Read by vLLM while it is imported."""

LOG_LEVELS: Mapping[str, int] = {
    "vllm": logging.WARNING,
    # It warns of modules without a tensor of their own at every update; weight_engine checks what was loaded.
    "vllm.model_executor.model_loader.reload.layerwise": logging.ERROR,
}


class VllmEngine:
    """vLLM behind `gen_cluster.engine.Engine`. One per process: vLLM's distributed state is global."""

    def __init__(self, config: EngineConfig, *, model_path: str) -> None:
        """Takes seconds. `model_path`: a Hugging Face folder; only its configuration is read."""
        load_vllm(config)
        import torch  # after the environment is set

        torch.set_num_threads(config.threads)
        self._vllm = _start(config, model_path)
        self._config = config
        self._vocabulary: int = self._vllm.model_config.get_vocab_size()
        self._shapes = _published_shapes(model_path)
        self._lost = False
        self.served: WeightVersion | None = None

    def add(self, request_id: str, *, tokens: Int32Array, sampling: Sampling, seed: int) -> None:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        assert self.served is not None, "a request before the first weights would be answered by random ones"
        if not np.all((tokens >= 0) & (tokens < self._vocabulary)):  # vLLM checks it only with a tokenizer, and crashes
            raise ValueError(f"request {request_id}: token ids must be in 0 .. {self._vocabulary - 1}")
        params = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=True,  # the prompt's stop tokens alone decide, not the model folder's
            seed=seed,
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        # The salt keeps the prefix cache of older weights away: vLLM cannot reset it while requests run.
        prompt = tokens_input(tokens.tolist(), cache_salt=str(self.served))
        try:
            self._alive(self._vllm.add_request, request_id, prompt, params)
        except VLLMClientError as error:
            raise ValueError(f"request {request_id}: {error}") from error

    def abort(self, request_ids: Iterable[str]) -> int:
        ids = list(request_ids)
        tokens = sum(map(self._tokens_of, ids))
        self._alive(self._vllm.abort_request, ids)
        return tokens

    def _tokens_of(self, request_id: str) -> int:
        """Sampled so far; vLLM gives no output before a request has ended."""
        processor = self._vllm.output_processor
        states = (processor.request_states.get(name) for name in processor.external_req_ids.get(request_id, ()))
        return sum(state.detokenizer.num_output_tokens() for state in states if state is not None)

    def step(self) -> list[Finished]:
        import torch

        torch.get_num_threads()  # a thread adopts the number set at start only when asked; vLLM's kernels check it
        return [_finished(output) for output in self._alive(self._vllm.step)]

    def running(self) -> int:
        return self._vllm.get_num_unfinished_requests()

    def free_slots(self) -> int:
        return max(0, self._config.max_sequences - self.running())

    def expected_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def update(self, fetched: FetchedVersion) -> None:
        manifest = fetched.manifest
        refuse_unfit(fetched, self._shapes)
        files = {name: str(data.filename) for name, data in fetched.blobs.items()}  # type: ignore[attr-defined]
        stage = {"manifest": manifest.encode().decode(), "blobs": files}
        try:
            self._call("init_weight_transfer_engine", init_info=stage)
        except CorruptVersion as error:
            raise WeightsRefused(f"version {manifest.version}: {error}") from error
        try:
            self._call("start_weight_update")
            self._call("update_weights", update_info={"version": str(manifest.version)})
            self._call("finish_weight_update")
        except BaseException as error:
            self._lost = True
            raise EngineLost(f"the update to version {manifest.version} broke off: {error}") from error
        self._vllm.set_weight_version(str(manifest.version))
        self.served = manifest.version

    def close(self) -> None:
        from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

        self._vllm.engine_core.shutdown()
        destroy_model_parallel()
        destroy_distributed_environment()

    def _call(self, method: str, **arguments: Any) -> None:
        """Run a method on every tensor-parallel worker."""
        self._alive(self._vllm.collective_rpc, method, kwargs=arguments)

    def _alive(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self._lost:
            raise EngineLost("this engine's weights are half replaced; its process must end")
        return function(*args, **kwargs)


def refuse_unfit(fetched: FetchedVersion, expected: Mapping[str, tuple[int, ...]]) -> None:
    """WeightsRefused unless the version holds exactly the expected tensors."""
    manifest = fetched.manifest
    found = {entry.name: entry.shape for entry in manifest.tensors}
    problems = [
        *(f"{name} is missing" for name in sorted(expected.keys() - found.keys())),
        *(f"{name} is not in the model" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name} has shape {found[name]}, the model {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]
    if manifest.kind != "full":
        problems.append(f"its kind {manifest.kind!r} must be decoded to a full version first")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsRefused(
            f"version {manifest.version} does not fit the engine's model: {'; '.join(problems[:3])}{more}"
        )


def load_vllm(config: EngineConfig) -> None:
    """Import it, as an engine of `config` needs it; at once when that is done already.

    The collector is off meanwhile, and never looks at what the imports made: of some 10 s this saves 2-3 s, and 2 s of the
    start, in which vLLM collects five times.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)  # else vLLM serves on one
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    gc.disable()
    try:
        import vllm.engine.arg_utils
        import vllm.v1.engine.llm_engine  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()
    logger.info("vllm imported")


def _start(config: EngineConfig, model_path: str) -> Any:
    import torch
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    from gen_cluster.engine_stats import EngineStats
    from gen_cluster.weight_engine import BACKEND

    if current_platform.is_cpu():
        # vLLM compiles one function there, the rank of the sampled token, which nobody reads: 15-25 s the first time
        # on a machine, 2.3 s each time after.
        torch.compiler.set_stance("force_eager")
    arguments = EngineArgs(
        model=model_path,
        load_format="dummy",  # weights come from the store alone
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        skip_tokenizer_init=True,  # tokens in, tokens out
        generation_config="vllm",  # no sampling defaults from the model's folder
        logprobs_mode="processed_logprobs",  # after temperature: the policy that sampled
        dtype=config.dtype,
        max_model_len=config.max_model_tokens,
        max_num_seqs=config.max_sequences,
        enforce_eager=config.enforce_eager,
        gpu_memory_utilization=config.memory_share,
        kv_cache_memory_bytes=int(config.kv_cache_gib * 1024**3) if current_platform.is_cpu() else None,
        tensor_parallel_size=config.tensor_parallel,
        distributed_executor_backend="uni" if config.tensor_parallel == 1 else "mp",
        # On CPU, vLLM cannot take back the draw that a seeded request makes when only a part of its prompt was read.
        enable_chunked_prefill=not current_platform.is_cpu(),
        async_scheduling=False,  # no step in flight while weights change, else spans would lie
        disable_log_stats=False,  # to EngineStats alone
        seed=0,  # every request brings its own
    )
    return LLMEngine.from_engine_args(arguments, stat_loggers=[EngineStats])


def _published_shapes(model_path: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the trainer publishes them: of the Hugging Face model, without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _finished(output: Any) -> Finished:
    (sample,) = output.outputs
    if sample.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"request {output.request_id} was ended by vLLM: {sample.finish_reason}")
    return Finished(
        request_id=output.request_id,
        tokens=np.array(sample.token_ids, dtype=np.int32),
        logprobs=np.array(sample.logprobs.logprobs, dtype=np.float32),
        spans=tuple(_span(span) for span in sample.weight_versions),
        finish_reason=sample.finish_reason,
    )


def _span(span: Any) -> VersionSpan:
    version = WeightVersion.parse(span.version)
    return VersionSpan(
        lineage=version.lineage, epoch=version.epoch, number=version.number, start=span.start, end=span.end
    )
