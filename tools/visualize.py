"""The same as `mmhier visualize`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('visualize')
