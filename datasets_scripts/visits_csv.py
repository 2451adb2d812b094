"""Your own long table of visits to a visits dataset.

python datasets_scripts/visits_csv.py --data-dir my_visits.csv --output-dir data/mine
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("visits_csv", __doc__))
