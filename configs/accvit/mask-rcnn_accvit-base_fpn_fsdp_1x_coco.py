# The largest variant with parameters, gradients and optimizer state spread
# over the GPUs (FSDP), through mmengine's strategies:
#   tools/dist_train.sh \
#       configs/accvit/mask-rcnn_accvit-base_fpn_fsdp_1x_coco.py 8
_base_ = './mask-rcnn_accvit-base_fpn_1x_coco.py'

runner_type = 'mmhier.FlexibleRunner'
strategy = dict(
    type='mmhier.ResumableFSDPStrategy',
    model_wrapper=dict(
        # Keeps the parameters' names, which decay exemptions go by.
        use_orig_params=True,
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            min_num_params=1_000_000)),
    # One checkpoint of the whole model, as without FSDP.
    state_dict_cfg='full')
