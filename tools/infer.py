"""The same as `mmhier infer`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('infer')
