"""The same as `mmhier demo`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('demo')
