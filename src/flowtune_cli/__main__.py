"""``python -m flowtune_cli``, as launchers of several processes call the command."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
