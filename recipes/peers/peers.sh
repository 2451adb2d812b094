#!/usr/bin/env bash
# PyHealth's RETAIN, Transformer and GRU on the split of a prepared dataset, beside a checkpoint and the reference rankers.
# Three seeds of each, with PyHealth's start of the output bias and with that of our references: an hour on one core for
# Diabetes 130 (log.jsonl). Interrupted, the same command goes on behind the last ranking.
#   bash recipes/peers/peers.sh runs/mera data/diabetes130 runs/peers
# Seeds of one model go with commas between them, and further rankers of `mera compare` behind the rest: for the page of the card
#   r=runs/reference/experiments/runs; bash recipes/peers/peers.sh $r/recipe-0/model,$r/recipe-1/model,$r/recipe-2/model \
#     runs/reference/diabetes130 runs/peers \
#     "MERA, history alone=$r/no_profile-0/model,$r/no_profile-1/model,$r/no_profile-2/model"
# PyHealth has its own environment, because it needs Python 3.12 or 3.13 (PEERS_PYTHON) and other versions of our libraries.
set -euo pipefail
checkpoint=${1:?checkpoint folder}
dataset=${2:?prepared dataset}
out=${3:?folder for the environment, the export, the rankings and the comparison}
shift 3
here=$(dirname "$0")

if [ ! -x "$out/venv/bin/python" ]; then
  "${PEERS_PYTHON:-python3.12}" -m venv "$out/venv"
fi
"$out/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
[ -d "$out/export" ] || python "$here/export.py" --dataset "$dataset" --output-dir "$out/export"
"$out/venv/bin/python" "$here/pyhealth_rank.py" --export "$out/export" --output-dir "$out/rankings"

rankings=()
for model in RETAIN Transformer GRU; do
  runs=$out/rankings/${model,,}
  rankings+=("PyHealth $model=$runs-shipped-0.parquet,$runs-shipped-1.parquet,$runs-shipped-2.parquet")
  rankings+=("$model, log-odds=$runs-log-odds-0.parquet,$runs-log-odds-1.parquet,$runs-log-odds-2.parquet")
done
mera compare "mera=$checkpoint" "$@" "${rankings[@]}" --dataset "$dataset" --output-dir "$out/comparison"
