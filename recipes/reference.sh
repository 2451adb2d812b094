#!/usr/bin/env bash
# Everything under model_cards/mera-tiny-diabetes130 but the peers (recipes/peers): the experiments with three seeds, the
# evaluations of three of their settings, the control on synthetic claims, and the few patients of the MIMIC-IV demo. About
# three hours on four cores. Stopped, the same command goes on with the trainings that are missing.
#   pip install -e ".[report,encoder]" && bash recipes/reference.sh runs/reference 4
set -euo pipefail
out=${1:?folder for datasets and checkpoints}
jobs=${2:-1}
card=model_cards/mera-tiny-diabetes130
export HF_HUB_OFFLINE=1

[ -d "$out/diabetes130" ] || mera prepare diabetes130 --output-dir "$out/diabetes130"
bash recipes/experiments.sh "$out" "$jobs"
declare -A run_of=([profile]=recipe [history]=no_profile [memorized]=memorized)
for setting in profile history memorized; do
  for seed in 0 1 2; do
    mera evaluate "$out/experiments/runs/${run_of[$setting]}-$seed/model" --dataset "$out/diabetes130" \
      --output-dir "$out/evaluations/$setting-$seed" --overwrite
  done
  python -m mera_hf.evaluation.merge "$card/$setting" "$out/evaluations/$setting"-{0,1,2}
done
cp -r "$out/evaluations/profile-0/plots" "$out/evaluations/profile-0/report.html" "$card/profile/"
cp "$out/experiments/runs/memorizing-0/memorization.json" "$out/evaluations/profile-0/metrics.json" "$card/"

# Negative control: claims without continuity of patients. Shuffling the histories must change nothing.
mera prepare desynpuf --output-dir "$out/desynpuf"
mera train --config recipes/tiny-cpu/train.yaml --dataset "$out/desynpuf" --output-dir "$out/control" \
  --num-train-epochs 3 --per-device-train-batch-size 64
mera evaluate "$out/control" --dataset "$out/desynpuf" --output-dir "$out/control/evaluation"
mkdir -p "$card/negative-control" && cp "$out/control/evaluation"/{metrics.json,table.md} "$card/negative-control/"

# Few patients: 48 of the MIMIC-IV demo, five folds.
mera prepare mimic4 --data-dir tests/fixtures/mimic4_demo --output-dir "$out/mimic4_demo"
for seed in 0 1 2; do
  mkdir -p "$out/mimic4_demo-$seed"
  mera cross-validate --config recipes/tiny-cpu/train-few-patients.yaml --dataset "$out/mimic4_demo" --seed $seed \
    --output "$out/mimic4_demo-$seed/metrics.json"
done
python -m mera_hf.evaluation.merge "$card/mimic4-demo" "$out/mimic4_demo"-{0,1,2}

mera card "$out/experiments/runs/recipe-0/model" --metrics "$card/metrics.json" --notes "$card/notes.md" \
  --repo mera-hf/mera-tiny-diabetes130 --output "$card/README.md" --overwrite
