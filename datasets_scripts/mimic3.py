"""MIMIC-III, or its demo, to a visits dataset.

python datasets_scripts/mimic3.py --data-dir physionet/mimiciii/1.4 --output-dir data/mimic3
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("mimic3", __doc__))
