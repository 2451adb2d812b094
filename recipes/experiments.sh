#!/usr/bin/env bash
# All experiments of the reference recipe on Diabetes 130, three seeds each: 23 variants, four minutes each on one core, and
# three models that memorize. Runs are kept in $out/experiments/runs, shared among the experiments, and found again when this is
# started once more. Everything under model_cards/mera-tiny-diabetes130/experiments/ comes from here.
#   pip install -e ".[report,encoder]" && bash recipes/experiments.sh runs/reference 4
set -euo pipefail
out=${1:?folder for dataset and runs}
jobs=${2:-2}
card=model_cards/mera-tiny-diabetes130/experiments
export HF_HUB_OFFLINE=1

[ -d "$out/diabetes130" ] || mera prepare diabetes130 --output-dir "$out/diabetes130"
for name in memorization hierarchy eov ablation ontology; do
  mera experiment $name --config recipes/tiny-cpu/train.yaml --memorize-config recipes/tiny-cpu/memorize.yaml \
    --dataset "$out/diabetes130" --output-dir "$out/experiments" --seeds 0 1 2 --jobs "$jobs"
  rm -rf "${card:?}/$name" && mkdir -p "$card" && cp -r "$out/experiments/$name" "$card/$name"
done
