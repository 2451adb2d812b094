"""Synthetic visits in which one known thing is to be found, or nothing, to a visits dataset.

python datasets_scripts/worlds.py --world sizes --output-dir data/sizes
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("worlds", __doc__))
