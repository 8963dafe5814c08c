"""The same as `mmhier analyze`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('analyze')
