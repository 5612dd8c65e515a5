#!/bin/sh
# Starts the run, or resumes it where its folder says that it is begun: so a RayJob may be retried, or applied again.
set -eu
set --
while IFS= read -r line; do
  case $line in '' | '#'*) ;; *) set -- "$@" "$line" ;; esac
done </etc/headrace/overrides
if [ -f "/runs/$HEADRACE_RUN/recipe.yaml" ]; then
  exec headrace resume "/runs/$HEADRACE_RUN" "$@"
fi
exec headrace run "$HEADRACE_RECIPE" "run.name=$HEADRACE_RUN" run.root=/runs "$@"
