import sys

from mera_hf.cli.main import main


sys.exit(main())
