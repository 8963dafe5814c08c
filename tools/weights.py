"""The same as `mmhier weights`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('weights')
