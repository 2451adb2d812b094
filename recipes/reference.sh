#!/usr/bin/env bash
# The reference runs: three seeds with profile, three on the history alone, three from the memorized checkpoint, the control
# on synthetic claims, and the few patients of the MIMIC-IV demo. Everything under model_cards/ comes from here. About an hour
# and a half on two cores.
#   pip install -e ".[report,encoder]" && bash recipes/reference.sh runs/reference
set -euo pipefail
out=${1:?folder for datasets and checkpoints}
card=model_cards/mera-tiny-diabetes130
export HF_HUB_OFFLINE=1

mera prepare diabetes130 --output-dir "$out/diabetes130"
mera memorize --config recipes/tiny-cpu/memorize.yaml --dataset "$out/diabetes130" --output-dir "$out/memorize"
declare -A options=(
  [profile]="--use-profile true"
  [history]="--use-profile false"
  [memorized]="--model-name-or-path $out/memorize"
)
for setting in profile history memorized; do
  for seed in 0 1 2; do
    # shellcheck disable=SC2086
    mera train --config recipes/tiny-cpu/train.yaml --dataset "$out/diabetes130" \
      --output-dir "$out/$setting-$seed" --seed $seed ${options[$setting]}
    mera evaluate "$out/$setting-$seed" --dataset "$out/diabetes130" --output-dir "$out/$setting-$seed/evaluation"
  done
  python -m mera_hf.evaluation.merge "$card/$setting" "$out/$setting"-{0,1,2}/evaluation
done
cp -r "$out/profile-0/evaluation/plots" "$out/profile-0/evaluation/report.html" "$card/profile/"
cp "$out/memorize/memorization.json" "$card/"

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
