#!/usr/bin/env bash
# Joins the trainer's Ray as a node for engines, and stays until it is taken away or the head is gone.
# shellcheck source=deploy/skypilot/ray.sh
source "$(dirname "$0")/ray.sh"
ray_node --address="$HEAD:6379" --resources='{"generation": 1000}' --block
