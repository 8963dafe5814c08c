"""The same as `mmhier doctor`, also where mmhier is not installed."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from mmhier.cli.__main__ import run  # noqa: E402

if __name__ == '__main__':
    run('doctor')
