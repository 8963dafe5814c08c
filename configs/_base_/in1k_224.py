# Classification of ImageNet-1k at 224x224, DeiT's recipe.
_base_ = [
    './models/classifier.py', './datasets/imagenet_224.py',
    './schedules/imagenet_300e.py', './cls_runtime.py'
]
