# A classifier of 224x224 images with label smoothing, mixup and cutmix. A
# config adds backbone, neck (if maps are to be pooled), head type and
# num_classes; head.in_channels follows from the backbone's.
model = dict(
    type='mmhier.ImageClassifier',
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    head=dict(
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=False),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0)
    ]))
