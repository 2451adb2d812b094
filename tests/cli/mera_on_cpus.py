"""`mera` with FSDP2 on CPUs, which accelerate has for accelerators alone: for `accelerate launch`."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from device_runs import let_cpus_shard  # noqa: E402

from mera_hf.cli.main import main  # noqa: E402


if __name__ == "__main__":
    let_cpus_shard()
    sys.exit(main())
