# Mask2Former's 160,000 iterations on ADE20K, polynomial decay of power 0.9
# to 0; optimizer as on COCO.
#
# Batch 16 = 8 GPUs x 2 crops.
_base_ = './mask2former_50e.py'

max_iters = 160000
train_cfg = dict(max_iters=max_iters)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.,
        power=0.9,
        begin=0,
        end=max_iters,
        by_epoch=False)
]
