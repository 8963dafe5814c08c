"""Test-time augmentation of segmentors."""
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel as MMSegTTAModel
from mmseg.models.decode_heads import Mask2FormerHead, MaskFormerHead
from mmseg.structures import SegDataSample
from torch import Tensor
from mmhier.registry import MODELS

__all__ = ['SegTTAModel']


@MODELS.register_module()
class SegTTAModel(MMSegTTAModel):
    """mmseg's SegTTAModel with the memory of a single view.

    Probabilities of the views at image size are averaged one by one. mmseg
    keeps all of them: 2 GB per view for the largest photos and the 150
    classes of ADE20K. The scores of MaskFormer's and Mask2Former's heads
    are sums of probabilities and are averaged without the softmax that mmseg
    applies, as their authors do.

    Args:
        **kwargs: ``module``, the model, and ``data_preprocessor``.
    """

    def test_step(self, data: dict[str, list]) -> list[SegDataSample]:
        """Predict from the averaged probabilities.

        Args:
            data (dict[str, list]): 'inputs' and 'data_samples', each a list
                over the views of lists over the images.

        Returns:
            list[SegDataSample]: One per image, with ``pred_sem_seg``
            (1, H, W) and without ``seg_logits``.
        """
        merged: list[SegDataSample] = []
        totals: list[Tensor] = []
        for values in zip(*data.values()):
            samples = self.module.test_step(dict(zip(data, values)))
            for i, sample in enumerate(samples):
                probabilities = self._probabilities(sample)
                del sample.seg_logits
                if len(merged) <= i:
                    merged.append(sample)
                    totals.append(probabilities)
                else:
                    totals[i] += probabilities
        for sample, total in zip(merged, totals):
            if len(total) > 1:
                labels = total.argmax(0, keepdim=True)
            else:
                # mmseg's cascades predict several channels only.
                mean = total / len(data['inputs'])
                threshold = self.module.decode_head.threshold
                labels = (mean > threshold).to(total)
            sample.pred_sem_seg = PixelData(data=labels)
        return merged

    def _probabilities(self, sample: SegDataSample) -> Tensor:
        """(classes, H, W); for one class mmseg applies the sigmoid."""
        scores = sample.seg_logits.data
        head = self.module.decode_head
        is_summed = isinstance(head, (MaskFormerHead, Mask2FormerHead))
        return scores if len(scores) == 1 or is_summed else scores.softmax(0)
