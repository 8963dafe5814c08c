"""The same as `mmhier benchmark`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('benchmark')
