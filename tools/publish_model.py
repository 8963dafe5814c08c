"""The same as `mmhier publish`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('publish')
