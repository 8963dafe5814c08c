"""``python -m mmhier``: the same as ``mmhier``."""
from mmhier.cli.__main__ import main

if __name__ == '__main__':
    main()
