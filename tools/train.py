"""The same as `mmhier train`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('train')
