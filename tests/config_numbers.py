"""Published and measured numbers of the configs, by variant and head."""
from .config_zoo import DETECTOR_VARIANTS

# Parameters of the whole model. LIT publishes 30, 39 (RetinaNet), 40, 48
# (Mask R-CNN) and 24, 32 (Semantic FPN) million for tiny and small. LITv2's
# equal those of the authors' models exactly.
HEADS = ('in1k', 'mask-rcnn', 'retinanet', 'upernet', 'semantic-fpn',
         'cascade-mask-rcnn')
PARAMETERS = '''
hatnet-tiny     12650152   32367024   22158772   41651180   16466262
hatnet-small    25738568   45392976   35475540   55713420   29492214   78321246
hatnet-medium   42925960   62580368   52662932   72900812   46679606   95508638
hatnet-large    63108936   82668112   73045588   93807756   66767350
lit-tiny        19886272   39538632   29621196   49859076   23637870
lit-small       27973720   48240096   38904292   59898524   31850502   81168366
lit-medium      49372264   70945008   61609204   81763628   53715606  103873278
lit-base        87292384  109421288  100667116  121787684   91749006
litv2-small     27844000   47350056   38014252   59497508   31449486   80278326
litv2-medium    48830368   68336424   59000620   80483876   52435854  101264694
litv2-base      86520704  105894024   97139852  120032196   89993518
hvt-ti-1         5735656   26089008   15105460   34082924   10188246
hvt-s-0         22049896   43737072   32260852   53549612   27836310
hvt-s-1         22087144   43774320   32298100   53586860   27873558
hvt-s-2         22105576   43792752   32316532   53605292   27891990
hvt-s-3         22114408   43801584   32325364   53614124   27900822
hvt-s-4         22118632   43805808   32329588   53618348   27905046
accvit-femto     4399880   24105720   13606652   32271668    8204958
accvit-pico      9550476   29107452   18899200   38268728   13206690
accvit-nano     16649248   36024592   26107156   46181196   20123830
accvit-tiny     28367252   47742596   37825160   57899200   31841834   80670866
accvit-small    62886494   81800270   72464466   93947530   65899508  114728540
accvit-base    103576028  122489804  113154000  134637064  106589042
'''
PARAMETERS = {
    row.split()[0]: dict(zip(HEADS, map(int,
                                        row.split()[1:])))
    for row in PARAMETERS.strip().splitlines()
}
TRANSFORMERS = ('dino-4scale', 'mask2former-instance', 'mask2former-semantic')
for row in '''
hatnet-small    45340332   45020017   45038007
lit-small       48769084   48398209   47396295
lit-base       110531908  110971401  107294799
litv2-small     47879044   46977289   46995279
litv2-base     107004644  105521321  105539311
'''.strip().splitlines():
    name, *counts = row.split()
    PARAMETERS[name].update(zip(TRANSFORMERS, map(int, counts)))
# Windows have no parameters.
PARAMETERS.update({v: PARAMETERS[v[:-4]] for v in DETECTOR_VARIANTS})
PUBLISHED_MILLIONS = {
    'lit-tiny': {
        'retinanet': 30,
        'mask-rcnn': 40,
        'semantic-fpn': 24
    },
    'lit-small': {
        'retinanet': 39,
        'mask-rcnn': 48,
        'semantic-fpn': 32
    },
}
# Of the last block, by the family's sources.
DROP_PATH = {
    'hatnet-tiny': 0.1,
    'hatnet-small': 0.1,
    'hatnet-medium': 0.3,
    'hatnet-large': 0.3,
    'lit-tiny': 0.1,
    'lit-small': 0.2,
    'lit-medium': 0.3,
    'lit-base': 0.5,
    'litv2-small': 0.2,
    'litv2-medium': 0.2,
    'litv2-base': 0.3,
    'accvit-femto': 0.1,
    'accvit-pico': 0.1,
    'accvit-nano': 0.1,
    'accvit-tiny': 0.2,
    'accvit-small': 0.3,
    'accvit-base': 0.4
}
DROP_PATH.update({v: DROP_PATH[v[:-4]] for v in DETECTOR_VARIANTS})
# Where ImageNet training differs.
IMAGENET_DROP_PATH = {'litv2-medium': 0.3, 'litv2-base': 0.5}
