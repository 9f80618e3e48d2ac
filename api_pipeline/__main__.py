"""``python -m api_pipeline``: the same as the console script."""

import sys

from api_pipeline.entry_point import main

if __name__ == "__main__":
    sys.exit(main())
