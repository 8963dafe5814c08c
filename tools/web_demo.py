"""The same as `mmhier web-demo`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('web-demo')
