"""``python -m flowtune_cli`` is the command ``flowtune``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
