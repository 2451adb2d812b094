"""Diabetes 130-US Hospitals 1999-2008 to a visits dataset.

python datasets_scripts/diabetes130.py --output-dir data/diabetes130

The package carries the data; --data-dir DIR reads UCI's diabetic_data.csv instead.
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("diabetes130", __doc__))
