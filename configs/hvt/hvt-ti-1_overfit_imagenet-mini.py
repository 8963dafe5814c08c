# Does it learn? A classifier trained and evaluated on the same twenty photos
# of ImageNet, two of each of ten classes, from random weights, in minutes on
# a CPU:
#   python tools/train.py configs/hvt/hvt-ti-1_overfit_imagenet-mini.py \
#       --data-root PATH_TO_IMAGENET_MINI
_base_ = './hvt-ti-1_8xb128_in1k.py'

lowest_metrics = {'accuracy/top1': 95.}

# By WordNet id: tench, English springer, cassette player, chain saw, church,
# French horn, garbage truck, gas pump, golf ball, parachute.
classes = ('n01440764', 'n02102040', 'n02979186', 'n03000684', 'n03028079',
           'n03394916', 'n03417042', 'n03425413', 'n03445777', 'n03888257')
# Of 30 photos a class.
indices = list(range(0, 300, 15))
data_root = 'data/imagenet/'

# The backbone is whole; images are small, for speed. No augmentation.
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict(drop_path_rate=0.),
    head=dict(num_classes=len(classes)),
    train_cfg=dict(_delete_=True))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(112, 112)),
    dict(type='PackInputs')
]
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root=data_root,
    data_prefix='train',
    metainfo=dict(classes=classes),
    indices=indices,
    pipeline=pipeline)

# Each batch is the whole set: an epoch is one iteration.
train_dataloader = dict(
    batch_size=20,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dataset)
val_dataloader = dict(
    batch_size=20, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator

max_epochs = 60
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=False,
        begin=10,
        end=max_epochs)
]
optim_wrapper = dict(optimizer=dict(lr=5e-4))

default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_epochs))
