#!/usr/bin/env bash
# What every node's script begins with: the environment, and Ray's token in a file. SkyPilot has a Ray of its own on other
# ports, which is left alone.
set -euo pipefail
umask 077
export PATH="$HOME/headrace/bin:$PATH" RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.headrace-ray-token"
export RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0
printf %s "$RAY_TOKEN" >"$RAY_AUTH_TOKEN_PATH"
unset RAY_TOKEN
ulimit -n "$(ulimit -Hn)"

ray_node() { # arguments of ray start
  ray start --num-gpus="${SKYPILOT_NUM_GPUS_PER_NODE:-0}" --object-store-memory=134217728 --disable-usage-stats \
    --temp-dir=/tmp/headrace-ray "$@"
}
