"""``python -m trio_ws``: the command line."""

from __future__ import annotations

import sys

from trio_ws.cli import main

if __name__ == "__main__":
    sys.exit(main())
