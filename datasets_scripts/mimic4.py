"""MIMIC-IV, or its demo, to a visits dataset.

python datasets_scripts/mimic4.py --data-dir physionet/mimiciv/2.2 --output-dir data/mimic4
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("mimic4", __doc__))
