"""The same as `mmhier replay`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('replay')
