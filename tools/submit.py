"""The same as `mmhier submit`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('submit')
