"""Build of mmhier: metadata, extras, and configs and tools for wheels."""
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# What OpenMMLab packages carry inside their wheels, for `mim` and for
# `Config.fromfile('mmhier::...')`.
MIM_CONTENTS = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """build_py that also copies configs and tools to mmhier/.mim."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmhier', '.mim')
        for name in MIM_CONTENTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source,
                    target / name,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns('__pycache__'))
            elif source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name)


def read_version() -> str:
    scope: dict = {}
    exec((ROOT / 'mmhier' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmhier',
    version=read_version(),
    description='Hierarchical-attention vision transformers (HAT-Net, LIT, '
    'LITv2, HVT, ACC-ViT) for dense prediction on OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmhier', 'mmhier.*']),
    package_data={
        'mmhier.checkpoints': ['official.yml'],
        'mmhier.leaderboard': ['leaderboard.html'],
        'mmhier.visualization': ['coffee.jpg']
    },
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.7',
        'torchvision>=0.22',
        'numpy>=2.0.2',
        'pycocotools>=2.0.8',
        'filelock>=3.12',
        'jinja2>=3.1',
    ],
    extras_require={
        'openmmlab': [
            'onedl-mmengine>=0.10.12,<0.11',
            'onedl-mmcv>=2.3.6,<2.4',
            'onedl-mmdetection>=3.5.1,<3.6',
            'onedl-mmsegmentation>=1.4.2,<1.5',
            'onedl-mmpretrain>=1.3.6,<1.4',
            'opencv-python>=4.10',
        ],
        'export': ['onnx>=1.19', 'onnxscript>=0.5', 'onnxruntime>=1.23'],
        'fast-eval': ['faster-coco-eval>=1.8'],
        'web': ['gradio>=5'],
        'safetensors': ['safetensors>=0.4'],
        'supervision': ['supervision>=0.31'],
        'tensorboard': ['tensorboard>=2.15'],
        'mlflow': ['mlflow>=2.20'],
        'wandb': ['wandb>=0.17'],
        'aim': ['aim>=3.20'],
        'timm': ['timm>=1.0.31'],
        'tests': [
            'pytest>=8', 'faster-coco-eval>=1.8', 'safetensors>=0.4',
            'timm>=1.0.31'
        ],
    },
    entry_points={'console_scripts': ['mmhier = mmhier.cli.__main__:main']},
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False)
