#!/usr/bin/env bash
# The checkpoints that come with the package, see mera_hf/checkpoints/README.md: trained by the recipes below with seed 0. Says
# whether the weights are those that are there, byte for byte, and measures them. About ten minutes on two cores.
#   pip install -e ".[report,encoder]" && bash recipes/ship.sh runs/ship
set -euo pipefail
out=${1:?folder for dataset and checkpoints}
shipped=mera_hf/checkpoints
export HF_HUB_OFFLINE=1

mera prepare diabetes130 --output-dir "$out/diabetes130"
mera memorize --config recipes/tiny-cpu/memorize.yaml --dataset "$out/diabetes130" \
  --output-dir "$out/mera-tiny-memorized" --seed 0
mera train --config recipes/tiny-cpu/train.yaml --dataset "$out/diabetes130" \
  --output-dir "$out/mera-tiny-diabetes130" --seed 0
mera evaluate "$out/mera-tiny-diabetes130" --dataset "$out/diabetes130" --split validation

for name in mera-tiny-memorized mera-tiny-diabetes130; do
  cmp "$out/$name/model.safetensors" "$shipped/$name/model.safetensors" \
    || echo "$name: other weights, as another processor or version of torch may give"
  install -m 644 "$out/$name"/*.json "$out/$name/model.safetensors" "$shipped/$name/"
done
(cd "$shipped" && sha256sum */model.safetensors > SHA256SUMS)
python -m pytest -n 0 tests/test_shipped.py  # the figures that were written down are those of the weights
