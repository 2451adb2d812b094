"""CMS DE-SynPUF inpatient claims (synthetic, the negative control) to a visits dataset.

python datasets_scripts/desynpuf.py --output-dir data/desynpuf

The package carries an excerpt; --data-dir DIR reads CMS's unzipped sample files instead.
"""

from mera_hf.cli.prepare import run_script


if __name__ == "__main__":
    raise SystemExit(run_script("desynpuf", __doc__))
