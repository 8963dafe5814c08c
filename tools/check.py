"""The same as `mmhier check`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('check')
