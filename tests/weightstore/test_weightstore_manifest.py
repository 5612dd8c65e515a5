import hashlib
import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightstore.manifest import BlobEntry, Manifest, ProbeSequence, TensorEntry, WeightVersion

TENSORS = tuple(
    TensorEntry(name=name, shape=(2, 3), dtype="float32", blob="shard-00000.safetensors", offset=offset, sha256=sha)
    for name, offset, sha in (("b", 8, "bb"), ("a", 32, "aa"))
)
MANIFEST = Manifest(
    kind="full",
    version=WeightVersion(0, 1, 12),
    base="",
    publication_id="p",
    step=12,
    model_hash="m",
    tokenizer_hash="t",
    aliases={"head": "a"},
    tensors=TENSORS,
    blobs=(BlobEntry(name="shard-00000.safetensors", size=56, sha256="cc"),),
    probe=(ProbeSequence(tokens=(1, 2), logprobs=(-0.5,)),),
)


def change(**fields):
    return msgspec.structs.replace(MANIFEST, **fields)


def altered(**fields):
    return msgspec.structs.replace(TENSORS[0], **fields)


def sealed(body: dict) -> bytes:
    text = json.dumps(body).encode()
    return b'{"sha256":"%s","body":%s}' % (hashlib.sha256(text).hexdigest().encode(), text)


def body() -> dict:
    return json.loads(MANIFEST.encode())["body"]


@given(st.builds(WeightVersion, *[st.integers(min_value=0, max_value=10**9)] * 3))
def test_a_version_reads_back_from_its_text(version):
    assert WeightVersion.parse(str(version)) == version


def test_versions_are_ordered_by_lineage_epoch_number():
    texts = ["0/1/2", "0/1/10", "0/2/1", "1/0/0"]
    assert sorted(map(WeightVersion.parse, reversed(texts))) == [WeightVersion.parse(text) for text in texts]
    assert WeightVersion(0, 1, 12).manifest_key == "weights/0/e1/v12/manifest.json"
    assert WeightVersion(0, 1, 12).shard_key(3) == "weights/0/e1/v12/shard-00003.safetensors"


@pytest.mark.parametrize("text", ["", "1/2", "1/2/3/4", "a/1/2", "-1/0/0", "1/2/3\n"])
def test_a_malformed_version_is_refused(text):
    with pytest.raises(ValueError, match="lineage/epoch/number"):
        WeightVersion.parse(text)


def test_the_json_form_reads_back():
    assert Manifest.decode(MANIFEST.encode()) == MANIFEST
    assert Manifest.decode(sealed(body())) == MANIFEST


def test_every_flipped_bit_is_seen():
    data = MANIFEST.encode()
    for position in range(len(data)):
        for bit in (0x01, 0x20):
            flipped = bytearray(data)
            flipped[position] ^= bit
            with pytest.raises(ValueError, match="manifest is malformed"):
                Manifest.decode(bytes(flipped))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"schema": 2}, "schema 2 is not the schema 1"),
        ({"step": "12"}, r"\$.step"),
        ({"kind": "partial"}, r"\$.kind"),
        ({"surprise": 1}, "surprise"),
        ({"tensors": [{"name": "a"}]}, r"\$.tensors\[0\]"),
        ({"hash_algorithm": "md5"}, r"\$.hash_algorithm"),
        ({"blobs": []}, "outside of the listed blobs"),
    ],
)
def test_a_malformed_manifest_is_refused_by_key(fields, named):
    with pytest.raises(ValueError, match=named):
        Manifest.decode(sealed(body() | fields))


def test_a_missing_key_is_named():
    content = body()
    del content["step"]
    with pytest.raises(ValueError, match="`step`"):
        Manifest.decode(sealed(content))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base": "0/1/11"}, "full"),
        ({"kind": "delta"}, "delta"),
        ({"kind": "delta", "base": "eleven"}, "eleven"),
        ({"aliases": {"head": "c"}}, "'c'"),
        ({"aliases": {"a": "b"}}, "'a'"),
        ({"tensors": TENSORS * 2}, "'b' is listed twice"),
        ({"tensors": (altered(offset=33), TENSORS[1])}, "b lies outside"),
        ({"tensors": (altered(offset=-1), TENSORS[1])}, "b lies outside"),
        ({"tensors": (altered(dtype="float31"), TENSORS[1])}, "float31"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        change(**fields)


def test_the_digest_names_the_weights_and_nothing_else():
    elsewhere = [msgspec.structs.replace(tensor, offset=0, blob="other") for tensor in reversed(TENSORS)]
    same = change(
        version=WeightVersion(1, 2, 3),
        publication_id="q",
        tensors=tuple(elsewhere),
        blobs=(BlobEntry(name="other", size=99, sha256="dd"),),
    )
    assert same.digest() == MANIFEST.digest()
    for field, value in (("name", "c"), ("dtype", "int32"), ("shape", (3, 2)), ("sha256", "ab")):
        assert change(tensors=(altered(**{field: value}), TENSORS[1])).digest() != MANIFEST.digest()


def test_manifests_and_publications_are_read_without_heavy_libraries():
    code = """
import sys
import weightstore.epochs, weightstore.fetch, weightstore.manifest, weightstore.publish, weightstore.retention
print(sorted({"torch", "ray", "vllm", "transformers", "boto3", "redis"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
