"""How much memory each process of a run takes of a GPU: pure functions of shapes and settings.

Worked out, not measured: headrace has not yet been run on GPUs. Weights, optimizer state and KV cache are exact to the
parameter; activations are estimates in the manner of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models", section 4.1, without its dropout masks and without attention scores, which flash attention never keeps.

    # P parameters, V vocabulary, h hidden size, q and k widths of all query and of all key heads, i width of the MLP,
    # n layers, t GPUs of an engine, R ranks, T tokens of a forward pass, w bytes of a weight
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 1024**3
RUNTIME_BYTES = int(1.5 * GIB)
"""CUDA context, NCCL's buffers, workspaces and what the allocator cannot use; an estimate, the same for every process."""
LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters, its default: what stays gathered before more is let go."""
ENGINE_TOKENS = 8192
"""Tokens of one step of vLLM (max_num_batched_tokens), for which it keeps room; its default depends on card and version."""
MASTER_BYTES = 4
MOMENT_BYTES = 8
GRADIENT_BYTES = 4
"""A gradient is summed in float32."""
CHUNK_BYTES = 3 * 2**26 * 4
"""Of the trainer's output layer: logits of a chunk in float32, their exponentials, and the gradient."""

Parts = Mapping[str, int]
"""What -> bytes on one GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Of a decoder, as its config.json says."""

    parameters: int
    """P, tied ones once."""
    embedding_parameters: int
    """Of the embedding, and of the output layer where that is another: what INT8 leaves in float32."""
    layers: int
    hidden: int
    query_width: int
    """Heads times their size."""
    key_width: int
    """The same of the key (and of the value) heads."""
    key_heads: int
    intermediate: int
    vocabulary: int

    @property
    def largest(self) -> int:
        """Parameters of the largest module that is gathered as a whole: an embedding or a matrix of the MLP."""
        return max(self.vocabulary, self.intermediate) * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return (self.parameters - self.embedding_parameters) // self.layers


def engine_parts(
    shape: Shape, *, card_bytes: int, memory_share: float, tensor_parallel: int, weight_bytes: int, sequences: int
) -> Parts:
    """Of one GPU of an engine. What vLLM takes in all is memory_share of the card; its KV cache is what the rest leaves.

    weights = w P / t; activations = T (2 w h + w (q + 2 k + 3 i) / t), and 12 V a sequence for its logits in float32 and the
    log-probs made of them. `update` comes on top of the share: one layer, or the embedding, of the new weights.
    """
    w, t = weight_bytes, tensor_parallel
    weights = w * shape.parameters // t
    inner = (shape.query_width + 2 * shape.key_width + 3 * shape.intermediate) // t
    activations = ENGINE_TOKENS * w * (2 * shape.hidden + inner) + 12 * shape.vocabulary * sequences
    return {
        "weights": weights,
        "KV cache": int(memory_share * card_bytes) - weights - activations - RUNTIME_BYTES,
        "activations": activations,
        "runtime": RUNTIME_BYTES,
        "update": w * max(shape.layer, shape.vocabulary * shape.hidden) // t,
    }


def cached_tokens(shape: Shape, cache_bytes: int, *, tensor_parallel: int, weight_bytes: int) -> int:
    """Tokens that an engine's KV cache holds, `cache_bytes` on each of its GPUs.

    A token takes 2 w n k / t on a GPU; a key head is never cut, so no less than one of them.
    """
    head = shape.key_width // shape.key_heads
    width = head * max(1, -(-shape.key_heads // tensor_parallel))
    return max(0, cache_bytes) // (2 * weight_bytes * shape.layers * width)


def frozen_bytes(shape: Shape, *, precision: str) -> int:
    """Weights of a frozen model: INT8 for the matrices of its layers, float32 for embedding and head, whose scales and norms
    are left out; or all of them in bfloat16 or float32."""
    if precision in ("int8", "int8_weights"):
        return shape.parameters - shape.embedding_parameters + 4 * shape.embedding_parameters
    return shape.parameters * (2 if precision == "bfloat16" else 4)


def frozen_activations(shape: Shape, *, tokens: int, weight_bytes: int, logits: bool) -> int:
    """Of a forward pass over T tokens, no gradient kept: T (2 w h + w (q + 2 k + 3 i)), and one matrix turned from INT8 to
    float32 where the weights alone are INT8. `logits`: 8 V T for them and for one row's copy, at most as large."""
    w = weight_bytes
    inner = 2 * shape.hidden + shape.query_width + 2 * shape.key_width + 3 * shape.intermediate
    matrix = 4 * shape.intermediate * shape.hidden
    return tokens * w * inner + matrix + (8 * shape.vocabulary * tokens if logits else 0)


def rank_parts(
    shapes: Sequence[Shape], *, ranks: int, weight_bytes: int, tokens: int, recompute: bool, policy: int = 0
) -> Parts:
    """Of one ZeRO-3 rank that trains several models in turn (policy and critic): states add up, the rest is the largest's.

    states: w P / R the shard that is gathered from, 4 P / R master weights, 8 P / R moments, 4 P / R gradients.
    gathered: w min(P, LIVE + largest module). gradients: of the module just gone through, and their float32 copy on the way
    to the others. activations: see `activation_bytes`. `policy`: which of them has an output layer over the vocabulary.
    """
    w, parameters = weight_bytes, sum(shape.parameters for shape in shapes)
    gathered = max(min(shape.parameters, LIVE_PARAMETERS + shape.largest) for shape in shapes)
    kept = max(
        activation_bytes(shape, tokens=tokens, weight_bytes=w, recompute=recompute) + CHUNK_BYTES * (index == policy)
        for index, shape in enumerate(shapes)
    )
    return {
        "weights": w * parameters // ranks,
        "master, moments": (MASTER_BYTES + MOMENT_BYTES) * parameters // ranks,
        "gradients": GRADIENT_BYTES * parameters // ranks + (w + 4) * max(shape.largest for shape in shapes),
        "gathered": w * gathered,
        "activations": kept,
        "runtime": RUNTIME_BYTES,
    }


def activation_bytes(shape: Shape, *, tokens: int, weight_bytes: int, recompute: bool) -> int:
    """What the backward pass needs of T tokens.

    A layer keeps T (w (6 h + 2 q + 2 k + 4 i) + 8 h): inputs and outputs of both norms and of both blocks; queries and
    what attention made of them; keys and values; gate, up, the gate's activation and their product; the norms in float32.
    With gradient checkpointing only the n inputs, w h T each, and one layer at a time.
    """
    w, h = weight_bytes, shape.hidden
    wide = 6 * h + 2 * shape.query_width + 2 * shape.key_width + 4 * shape.intermediate
    layer = tokens * (w * wide + 8 * h)
    return shape.layers * w * h * tokens + layer if recompute else shape.layers * layer


def host_bytes(shapes: Sequence[Shape], *, ranks: int, weight_bytes: int) -> int:
    """Main memory of one rank beside its libraries: the copy that a checkpoint is written from (master and moments), the
    copy of the version being published, of which each rank owns about a share, and one whole tensor."""
    parameters = sum(shape.parameters for shape in shapes)
    copies = (MASTER_BYTES + MOMENT_BYTES) * parameters // ranks
    return copies + weight_bytes * shapes[0].parameters // ranks + weight_bytes * shapes[0].largest
