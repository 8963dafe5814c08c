"""The same as `mmhier test`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('test')
