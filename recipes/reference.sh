#!/usr/bin/env bash
# The reference run of mera-tiny-diabetes130: three seeds with profile, three on the history alone, three with the facts of
# earlier stays. Everything under model_cards/mera-tiny-diabetes130 comes from this script. About an hour on two cores.
#   bash recipes/reference.sh runs/reference
set -euo pipefail
out=${1:?folder for datasets and checkpoints}
card=model_cards/mera-tiny-diabetes130
export HF_HUB_OFFLINE=1

mera prepare diabetes130 --output-dir "$out/dataset"
mera memorize --config recipes/tiny-cpu/memorize.yaml --dataset "$out/dataset" --output-dir "$out/memorized"
declare -A options=(
  [profile]="--use-profile true"
  [history]="--use-profile false"
  [facts]="--use-profile true --use-visit-text true"
)
for setting in profile history facts; do
  for seed in 0 1 2; do
    # shellcheck disable=SC2086
    mera train --config recipes/tiny-cpu/train.yaml --dataset "$out/dataset" --model-name-or-path "$out/memorized" \
      --output-dir "$out/$setting-$seed" --seed $seed ${options[$setting]}
    mera evaluate "$out/$setting-$seed" --dataset "$out/dataset" --output-dir "$out/$setting-$seed/evaluation"
  done
  python -m mera_hf.evaluation.merge "$card/$setting" "$out/$setting"-{0,1,2}/evaluation
done
cp -r "$out/profile-0/evaluation/plots" "$out/profile-0/evaluation/report.html" "$card/profile/"
cp "$out/memorized/memorization.json" "$card/"
