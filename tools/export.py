"""The same as `mmhier export`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('export')
