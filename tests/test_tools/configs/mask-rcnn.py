# A slim Mask R-CNN for the images of samples.write_coco.
_base_ = '../../../configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py'

classes = ('box', 'bar', 'tile')
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhier.HATNet',
        arch=dict(
            embed_dims=(16, 16, 32, 32),
            depths=(1, 1, 1, 1),
            head_dim=16,
            expansions=(2, 2, 2, 2),
            kernel_sizes=(3, 3, 3, 3),
            grid_sizes=(8, 7, 7, 1),
            ds_ratios=(8, 4, 2, 1))),
    neck=dict(in_channels=[16, 16, 32, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(
            num_convs=1, in_channels=16, conv_out_channels=16, num_classes=3)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=50, max_per_img=20),
        rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20),
        rcnn=dict(score_thr=0., max_per_img=10)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(metainfo=dict(classes=classes), pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(metainfo=dict(classes=classes), pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=1)
