"""Memory of each process on a GPU, by hand for Llama 3.1: sums in comments, in bytes."""

import pytest

from orchestrator.gpu_memory import (
    CHUNK_BYTES,
    GIB,
    RUNTIME_BYTES,
    Shape,
    activation_bytes,
    cached_tokens,
    engine_parts,
    frozen_activations,
    frozen_bytes,
    host_bytes,
    rank_parts,
)

V = 128256
LLAMA_8B = Shape(
    parameters=8_030_261_248,
    embedding_parameters=2 * V * 4096,
    layers=32,
    hidden=4096,
    query_width=4096,
    key_width=1024,
    key_heads=8,
    intermediate=14336,
    vocabulary=V,
)
REWARD_8B = Shape(
    parameters=7_504_928_768,  # the output layer of V x 4096 is one of 1 x 4096
    embedding_parameters=V * 4096,
    layers=32,
    hidden=4096,
    query_width=4096,
    key_width=1024,
    key_heads=8,
    intermediate=14336,
    vocabulary=V,
)
LLAMA_70B = Shape(
    parameters=70_553_706_496,
    embedding_parameters=2 * V * 8192,
    layers=80,
    hidden=8192,
    query_width=8192,
    key_width=1024,
    key_heads=8,
    intermediate=28672,
    vocabulary=V,
)
LLAMA_405B = Shape(
    parameters=405_853_388_800,
    embedding_parameters=2 * V * 16384,
    layers=126,
    hidden=16384,
    query_width=16384,
    key_width=1024,
    key_heads=8,
    intermediate=53248,
    vocabulary=V,
)


@pytest.mark.parametrize("shape", [LLAMA_8B, LLAMA_70B, LLAMA_405B])
def test_the_shape_makes_the_parameters_that_its_publisher_counts(shape):
    h, i = shape.hidden, shape.intermediate
    # Query and output, key and value, gate, up and down, two norms; two tables over the vocabulary and the last norm.
    layer = 2 * h * shape.query_width + 2 * h * shape.key_width + 3 * h * i + 2 * h
    assert shape.layers * layer + 2 * V * h + h == shape.parameters


def test_an_engine_of_70b_on_four_gpus_of_80_gb():
    parts = engine_parts(
        LLAMA_70B, card_bytes=79 * GIB, memory_share=0.9, tensor_parallel=4, weight_bytes=2, sequences=256
    )
    assert parts["weights"] == 35_276_853_248  # 2 * 70,553,706,496 / 4
    # 8,192 tokens * 2 * (2 * 8,192 + (8,192 + 2 * 1,024 + 3 * 28,672) / 4) = 16,384 * 40,448 = 662,700,032;
    # 12 * 128,256 * 256 = 394,002,432
    assert parts["activations"] == 662_700_032 + 394_002_432
    # 0.9 * 79 * 2^30 = 76,343,043,686.4; less weights, activations and 1.5 * 2^30 = 1,610,612,736
    assert parts["KV cache"] == 76_343_043_686 - 35_276_853_248 - 1_056_702_464 - 1_610_612_736
    # The embedding, 128,256 * 8,192 = 1,050,673,152, is larger than a layer of 855,654,400: * 2 / 4
    assert parts["update"] == 525_336_576
    # A token: keys and values of 2 heads of 128 in 80 layers, 2 bytes: 2 * 2 * 80 * 256 = 81,920 on each GPU.
    assert cached_tokens(LLAMA_70B, parts["KV cache"], tensor_parallel=4, weight_bytes=2) == 38_398_875_238 // 81_920


def test_a_key_head_is_not_cut_by_more_gpus_than_heads():
    whole = cached_tokens(LLAMA_8B, 2**30, tensor_parallel=8, weight_bytes=2)
    assert cached_tokens(LLAMA_8B, 2**30, tensor_parallel=16, weight_bytes=2) == whole == 2**30 // (2 * 2 * 32 * 128)


def test_405b_leaves_no_cache_on_eight_gpus_of_80_gb_and_some_on_eight_of_141():
    def cache(card_gib):
        parts = engine_parts(
            LLAMA_405B, card_bytes=card_gib * GIB, memory_share=0.9, tensor_parallel=8, weight_bytes=2, sequences=128
        )
        return parts["KV cache"] / GIB

    assert cache(79) < 0  # 71.1 GiB are a share of 0.9, 94.5 the weights
    assert cache(140) == pytest.approx(126 - 94.5 - 1.5 - 1.0, abs=0.1)


def test_int8_leaves_embedding_and_head_in_float32():
    # 8,030,261,248 - 2 * 525,336,576 = 6,979,588,096 bytes, and 4 * 1,050,673,152
    assert frozen_bytes(LLAMA_8B, precision="int8_weights") == 6_979_588_096 + 4_202_692_608
    assert frozen_bytes(LLAMA_8B, precision="bfloat16") == 2 * 8_030_261_248
    assert frozen_bytes(LLAMA_8B, precision="float32") == 4 * 8_030_261_248


def test_a_pass_of_the_reference_is_mostly_logits():
    # 4,096 tokens * 4 * (2 * 4,096 + 4,096 + 2 * 1,024 + 3 * 14,336) = 16,384 * 57,344 = 939,524,096
    # one matrix 4 * 14,336 * 4,096 = 234,881,024; logits and a copy 8 * 128,256 * 4,096 = 4,202,692,608
    whole = frozen_activations(LLAMA_8B, tokens=4096, weight_bytes=4, logits=True)
    assert whole == 939_524_096 + 234_881_024 + 4_202_692_608
    assert frozen_activations(REWARD_8B, tokens=4096, weight_bytes=4, logits=False) == 939_524_096 + 234_881_024


def test_a_rank_of_70b_with_a_critic_of_8b_on_32_gpus():
    parts = rank_parts([LLAMA_70B, REWARD_8B], ranks=32, weight_bytes=2, tokens=8192, recompute=True)
    # Both have 78,058,635,264 parameters: / 32 = 2,439,332,352 a rank.
    assert parts["weights"] == 2 * 2_439_332_352
    assert parts["master, moments"] == 12 * 2_439_332_352
    # Gradients in float32, and of the embedding 2 + 4 bytes on their way: 6 * 1,050,673,152
    assert parts["gradients"] == 4 * 2_439_332_352 + 6_304_038_912
    assert parts["gathered"] == 2 * (1_000_000_000 + 1_050_673_152)
    # Inputs of 80 layers: 80 * 2 * 8,192 * 8,192 = 10,737,418,240. One layer: 8,192 tokens *
    # (2 * (6 * 8,192 + 2 * 8,192 + 2 * 1,024 + 4 * 28,672) + 8 * 8,192) = 8,192 * 430,080 = 3,523,215,360
    assert parts["activations"] == 10_737_418_240 + 3_523_215_360 + CHUNK_BYTES
    assert parts["runtime"] == RUNTIME_BYTES
    assert sum(parts.values()) / GIB == pytest.approx(66.1, abs=0.1)


def test_without_recomputation_every_layer_keeps_what_one_would():
    one = activation_bytes(LLAMA_8B, tokens=8192, weight_bytes=2, recompute=True) - 32 * 2 * 4096 * 8192
    assert one == 8192 * 217_088  # 2 * (24,576 + 8,192 + 2,048 + 57,344) + 32,768
    assert activation_bytes(LLAMA_8B, tokens=8192, weight_bytes=2, recompute=False) == 32 * one


def test_a_rank_of_405b_among_256_keeps_more_for_its_tokens_than_for_its_share():
    parts = rank_parts([LLAMA_405B], ranks=256, weight_bytes=2, tokens=8192, recompute=True)
    share = parts["weights"] + parts["master, moments"]
    assert share == 2 * (405_853_388_800 // 256) + 12 * 405_853_388_800 // 256
    # 126 * 2 * 16,384 * 8,192 = 33,822,867,456; a layer 8,192 * (2 * 346,112 + 131,072) = 6,744,440,832
    assert parts["activations"] == 33_822_867_456 + 6_744_440_832 + CHUNK_BYTES


def test_a_model_smaller_than_what_stays_gathered_is_gathered_once():
    tiny = Shape(
        parameters=1000,
        embedding_parameters=200,
        layers=2,
        hidden=10,
        query_width=10,
        key_width=10,
        key_heads=1,
        intermediate=20,
        vocabulary=20,
    )
    assert rank_parts([tiny], ranks=2, weight_bytes=4, tokens=1, recompute=False)["gathered"] == 4000


def test_main_memory_holds_copies_of_a_share_and_one_tensor():
    # 12 * 78,058,635,264 / 32 + 2 * 70,553,706,496 / 32 + 2 * 1,050,673,152
    assert (
        host_bytes([LLAMA_70B, REWARD_8B], ranks=32, weight_bytes=2) == 29_271_988_224 + 4_409_606_656 + 2_101_346_304
    )
