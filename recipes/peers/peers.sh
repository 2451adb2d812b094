#!/usr/bin/env bash
# PyHealth's RETAIN, Transformer and GRU on the split of a prepared dataset, beside a checkpoint and the reference rankers.
# Three seeds of each, with PyHealth's start of the output bias and with that of our references: an hour on one core for
# Diabetes 130 (log.jsonl). Interrupted, the same command goes on behind the last ranking.
#   bash recipes/peers/peers.sh runs/mera data/diabetes130 runs/peers
# PyHealth has its own environment, because it needs Python 3.12 or 3.13 (PEERS_PYTHON) and other versions of our libraries.
set -euo pipefail
checkpoint=${1:?checkpoint folder}
dataset=${2:?prepared dataset}
out=${3:?folder for the environment, the export, the rankings and the comparison}
here=$(dirname "$0")

if [ ! -x "$out/venv/bin/python" ]; then
  "${PEERS_PYTHON:-python3.12}" -m venv "$out/venv"
fi
"$out/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
[ -d "$out/export" ] || python "$here/export.py" --dataset "$dataset" --output-dir "$out/export"
"$out/venv/bin/python" "$here/pyhealth_rank.py" --export "$out/export" --output-dir "$out/rankings"

rankings=()
for model in retain transformer gru; do
  for start in shipped log-odds; do
    name=pyhealth_$model
    [ $start = shipped ] || name+=_log_odds
    rankings+=("$name=$out/rankings/$model-$start-0.parquet,$out/rankings/$model-$start-1.parquet,$out/rankings/$model-$start-2.parquet")
  done
done
mera compare "mera=$checkpoint" "${rankings[@]}" --dataset "$dataset" --output-dir "$out/comparison"
