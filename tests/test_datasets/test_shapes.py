import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from mmhier.datasets import SHAPE_CLASSES, generate_shapes, masks, shapes

TOOL = Path(__file__).parents[2] / 'tools/dataset_tools/generate_shapes.py'
SIZES = dict(num_train=64, num_val=32)
SPLITS = dict(train='training', val='validation')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert generate_shapes(root, **SIZES)
    return root


@pytest.fixture(scope='module', params=SPLITS)
def split(request):
    return request.param


def load_coco(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / f'annotations/instances_{split}2017.json'))


def run_tool(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)],
                          capture_output=True,
                          text=True)


class TestMaskToPolygons:

    def decode(self, polygons, shape):
        rles = mask_utils.frPyObjects(polygons, *shape)
        return mask_utils.decode(mask_utils.merge(rles)).astype(bool)

    def test_rectangle_has_its_four_corners(self):
        mask = np.zeros((6, 8), bool)
        mask[1:4, 2:7] = True
        (polygon, ) = masks.mask_to_polygons(mask)
        corners = np.reshape(polygon, (-1, 2)).tolist()
        assert sorted(corners) == [[2, 1], [2, 4], [7, 1], [7, 4]]

    def test_single_pixel(self):
        mask = np.zeros((3, 3), bool)
        mask[2, 0] = True
        (polygon, ) = masks.mask_to_polygons(mask)
        assert sorted(np.reshape(polygon, (-1, 2)).tolist()) == [[0, 2], [0, 3],
                                                                 [1, 2], [1, 3]]

    def test_empty_mask(self):
        assert masks.mask_to_polygons(np.zeros((4, 4), bool)) == []

    def test_hole_stays_a_hole(self):
        mask = np.ones((7, 9), bool)
        mask[2:5, 3:6] = False
        polygons = masks.mask_to_polygons(mask)
        assert len(polygons) == 2
        assert (self.decode(polygons, mask.shape) == mask).all()

    @pytest.mark.parametrize('density', [0.1, 0.5, 0.9])
    @pytest.mark.parametrize('seed', range(5))
    def test_decodes_to_the_same_pixels(self, density, seed):
        rng = np.random.default_rng(seed)
        mask = rng.random((19, 23)) < density
        polygons = masks.mask_to_polygons(mask)
        assert (self.decode(polygons, mask.shape) == mask).all()


class TestMaskToRle:

    def test_counts_go_down_the_columns_and_start_with_zeros(self):
        mask = np.array([[1, 0, 0], [1, 1, 0]])
        assert masks.mask_to_rle(mask) == dict(
            counts=[0, 2, 1, 1, 2], size=[2, 3])

    @pytest.mark.parametrize('seed', range(3))
    def test_decodes_to_the_same_pixels(self, seed):
        mask = np.random.default_rng(seed).random((13, 17)) < 0.4
        rle = mask_utils.frPyObjects(masks.mask_to_rle(mask), 13, 17)
        assert (mask_utils.decode(rle) == mask).all()


class TestSameSeed:
    small = dict(num_train=5, num_val=2, image_size=96)

    def test_another_process_draws_the_same_bytes(self, tmp_path):
        generate_shapes(tmp_path / 'here', **self.small)
        result = run_tool(tmp_path / 'there', '--num-train', 5, '--num-val', 2,
                          '--image-size', 96)
        assert result.returncode == 0, result.stderr
        assert 'was drawn' in result.stdout
        here = shapes.content_hash(tmp_path / 'here')
        assert shapes.content_hash(tmp_path / 'there') == here
        manifest = json.loads((tmp_path / 'here/shapes.json').read_text())
        assert manifest['sha256'] == here

    def test_a_larger_set_starts_with_the_smaller_one(self, tmp_path):
        generate_shapes(tmp_path / 'small', **self.small)
        generate_shapes(tmp_path / 'large', **{**self.small, 'num_train': 9})
        names = [f'train2017/{i:012d}.jpg' for i in range(1, 6)]
        for name in names + ['classification/train/circle/000000.jpg']:
            assert ((tmp_path / 'small' /
                     name).read_bytes() == (tmp_path / 'large' /
                                            name).read_bytes())

    def test_another_seed_draws_another_set(self, tmp_path):
        generate_shapes(tmp_path / 'a', **self.small)
        generate_shapes(tmp_path / 'b', **self.small, seed=1)
        pictures = [{
            path.read_bytes()
            for path in (tmp_path / name).rglob('*.jpg')
        } for name in 'ab']
        assert not pictures[0] & pictures[1]

    def test_splits_share_no_picture(self, root):
        for folder in ('{}2017', 'classification/{}'):
            train, val = ({
                path.read_bytes()
                for path in (root / folder.format(split)).rglob('*.jpg')
            } for split in SPLITS)
            assert len(train) == 64 and len(val) == 32
            assert not train & val


class TestInstances:

    def test_annotations_describe_what_is_visible(self, root, split):
        coco = load_coco(root, split)
        assert len(coco.anns) > 2 * len(coco.imgs)
        for image_id, image in coco.imgs.items():
            assert image['height'] == image['width'] == 192
            taken = np.zeros((192, 192), int)
            for annotation in coco.imgToAnns[image_id]:
                mask = coco.annToMask(annotation).astype(bool)
                assert mask.sum() == annotation['area'] >= 25
                rows, columns = np.nonzero(mask)
                assert annotation['bbox'] == [
                    columns.min(),
                    rows.min(),
                    np.ptp(columns) + 1,
                    np.ptp(rows) + 1
                ]
                is_rle = isinstance(annotation['segmentation'], dict)
                assert is_rle == annotation['iscrowd']
                taken += mask
            assert taken.max() <= 1

    def test_ids_are_unique_across_splits(self, root):
        ids = [set(load_coco(root, split).imgs) for split in SPLITS]
        assert ids == [set(range(1, 65)), set(range(65, 97))]

    def test_semantic_map_joins_the_instances(self, root, split):
        coco = load_coco(root, split)
        for image_id, image in coco.imgs.items():
            expected = np.zeros((192, 192), np.uint8)
            for annotation in coco.imgToAnns[image_id]:
                mask = coco.annToMask(annotation).astype(bool)
                expected[mask] = annotation['category_id']
            name = image['file_name'].replace('.jpg', '.png')
            labels = cv2.imread(
                str(root / 'annotations' / SPLITS[split] / name),
                cv2.IMREAD_UNCHANGED)
            assert labels.dtype == np.uint8 and (labels == expected).all()

    def test_empty_pictures_and_crowds_come_at_fixed_places(self, root, split):
        coco = load_coco(root, split)
        for index, image_id in enumerate(sorted(coco.imgs)):
            annotations = coco.imgToAnns[image_id]
            assert bool(annotations) == (index % 16 != 15)
            crowds = sum(a['iscrowd'] for a in annotations)
            assert crowds == (index % 8 == 3)

    def test_sizes_range_from_12_pixels_to_half_the_picture(self, root):
        lengths = np.array([
            max(annotation['bbox'][2:])
            for annotation in load_coco(root, 'train').anns.values()
            if not annotation['iscrowd']
        ])
        # Borders and other shapes hide parts, antialiasing adds a pixel.
        assert lengths.max() <= 97
        assert (lengths > 80).any() and (lengths < 16).any()
        assert np.median(lengths) == pytest.approx(54, abs=8)

    def test_occlusion_splits_some_shapes(self, root):
        coco = load_coco(root, 'train')
        ring = coco.getCatIds('ring')[0]
        assert any(
            len(annotation['segmentation']) > 1
            for annotation in coco.anns.values()
            if not annotation['iscrowd'] and annotation['category_id'] != ring)

    def test_rings_have_holes(self, root):
        coco = load_coco(root, 'train')
        annotations = coco.loadAnns(
            coco.getAnnIds(catIds=coco.getCatIds('ring'), iscrowd=False))
        # A full ellipse fills 0.79 of its box, a ring 0.45 to 0.63 of it.
        filled = [a['area'] / np.prod(a['bbox'][2:]) for a in annotations]
        assert np.median(filled) < 0.65

    def test_classes_are_balanced(self, root):
        labels = [
            annotation['category_id'] - 1
            for annotation in load_coco(root, 'train').anns.values()
        ]
        counts = np.bincount(labels)
        assert len(counts) == len(SHAPE_CLASSES)
        assert counts.min() > 0.5 * counts.mean()

    def test_colour_does_not_tell_the_class(self, root):
        colours, labels = {}, {}
        for split in SPLITS:
            coco = load_coco(root, split)
            colours[split], labels[split] = [], []
            for annotation in coco.anns.values():
                name = coco.imgs[annotation['image_id']]['file_name']
                image = cv2.imread(str(root / f'{split}2017' / name))
                mask = coco.annToMask(annotation).astype(bool)
                colours[split].append(image[mask].mean(0))
                labels[split].append(annotation['category_id'])
        distances = np.linalg.norm(
            np.subtract.outer(colours['val'], colours['train'])[:, [0, 1, 2], :,
                                                                [0, 1, 2]],
            axis=0)
        nearest = np.array(labels['train'])[distances.argmin(1)]
        assert (nearest == labels['val']).mean() < 0.3

    @pytest.mark.parametrize('metric', ['bbox', 'segm'])
    def test_ground_truth_scores_1(self, root, split, metric):
        coco = load_coco(root, split)
        results = [
            dict(
                image_id=annotation['image_id'],
                category_id=annotation['category_id'],
                bbox=annotation['bbox'],
                segmentation=coco.annToRLE(annotation),
                score=1.0) for annotation in coco.anns.values()
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(coco, coco.loadRes(results), metric)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0, abs=1e-9)

    def test_categories_are_the_classes(self, root, split):
        categories = load_coco(root, split).cats
        assert [categories[i + 1]['name']
                for i in range(6)] == list(SHAPE_CLASSES)


class TestOtherLayouts:

    def test_pictures_are_stored_once(self, root, split):
        for path in (root / f'{split}2017').iterdir():
            assert path.samefile(root / 'images' / SPLITS[split] / path.name)

    def test_copied_where_links_are_not_supported(self, tmp_path, monkeypatch):

        def link(source, target):
            raise OSError('not supported')

        monkeypatch.setattr(shapes.os, 'link', link)
        generate_shapes(tmp_path / 'set', num_train=1, num_val=1)
        name = '000000000001.jpg'
        assert ((tmp_path / 'set/images/training' /
                 name).read_bytes() == (tmp_path / 'set/train2017' /
                                        name).read_bytes())

    def test_class_folders_for_mmpretrain(self, root, split):
        dataset = CustomDataset(data_root=str(root / 'classification' / split))
        assert tuple(dataset.CLASSES) == SHAPE_CLASSES
        counts = np.bincount(dataset.get_gt_labels())
        assert counts.sum() == SIZES[f'num_{split}']
        assert np.ptp(counts) <= 1
        assert cv2.imread(dataset[0]['img_path']).shape == (96, 96, 3)

    def test_label_maps_for_mmseg(self, root, split):
        dataset = BaseSegDataset(
            data_root=str(root),
            data_prefix=dict(
                img_path=f'images/{SPLITS[split]}',
                seg_map_path=f'annotations/{SPLITS[split]}'),
            metainfo=dict(classes=SHAPE_CLASSES),
            reduce_zero_label=True)
        assert len(dataset) == SIZES[f'num_{split}']
        assert all(
            Path(dataset.get_data_info(i)[key]).is_file()
            for key in ('img_path', 'seg_map_path')
            for i in range(len(dataset)))


class TestExistingDirectory:
    small = dict(num_train=2, num_val=1, image_size=64)

    @pytest.fixture
    def out_dir(self, tmp_path):
        generate_shapes(tmp_path / 'set', **self.small)
        return tmp_path / 'set'

    def test_same_set_is_reused(self, out_dir):
        before = {path: path.stat().st_mtime_ns for path in out_dir.rglob('*')}
        assert not generate_shapes(out_dir, **self.small)
        assert before == {
            path: path.stat().st_mtime_ns
            for path in out_dir.rglob('*')
        }
        result = run_tool(out_dir, '--num-train', 2, '--num-val', 1,
                          '--image-size', 64)
        assert result.returncode == 0, result.stderr
        assert result.stdout == (f'{out_dir}: reused, it holds the same set '
                                 'already.\n')

    def test_empty_directory_is_filled(self, tmp_path):
        assert generate_shapes(tmp_path, **self.small)
        assert (tmp_path / 'shapes.json').is_file()

    def test_other_parameters_are_refused(self, out_dir):
        message = (f'{out_dir} holds another shapes set: num_train 2 instead '
                   'of 3, seed 0 instead of 7. Delete it or choose another '
                   'directory.')
        result = run_tool(out_dir, '--num-train', 3, '--num-val', 1,
                          '--image-size', 64, '--seed', 7)
        assert result.returncode == 2
        assert result.stderr.endswith(f'error: {message}\n')

    @pytest.mark.parametrize('damage', ['delete', 'change', 'add'])
    def test_changed_set_is_refused(self, out_dir, damage):
        path = out_dir / 'train2017/000000000001.jpg'
        if damage == 'delete':
            path.unlink()
        elif damage == 'change':
            path.write_bytes(b'')
        else:
            path.with_name('other.jpg').write_bytes(b'')
        with pytest.raises(FileExistsError, match='was changed after it was'):
            generate_shapes(out_dir, **self.small)

    @pytest.mark.parametrize(
        'content', ['', '[]', '{}', 'null', '{"parameters": 1, "sha256": 2}'])
    def test_foreign_manifest_is_refused(self, tmp_path, content):
        (tmp_path / 'shapes.json').write_text(content)
        with pytest.raises(FileExistsError, match='is not the manifest of a'):
            generate_shapes(tmp_path, **self.small)

    def test_foreign_directory_is_refused(self, tmp_path):
        (tmp_path / 'thesis.tex').write_text('mine')
        with pytest.raises(FileExistsError, match='is not a shapes set'):
            generate_shapes(tmp_path, **self.small)
        assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']

    def test_file_is_refused(self, tmp_path):
        (tmp_path / 'set').write_text('mine')
        with pytest.raises(FileExistsError, match='is not a shapes set'):
            generate_shapes(tmp_path / 'set', **self.small)

    def test_interruption_leaves_nothing(self, tmp_path, monkeypatch):

        def write(root, *args):
            raise KeyboardInterrupt

        monkeypatch.setattr(shapes, '_write_class_folders', write)
        with pytest.raises(KeyboardInterrupt):
            generate_shapes(tmp_path / 'set', **self.small)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name,value,lowest', [('num_train', 0, 1),
                                               ('num_val', -1, 1),
                                               ('image_size', 63, 64),
                                               ('seed', -1, 0)])
def test_arguments_out_of_range(tmp_path, name, value, lowest):
    with pytest.raises(
            ValueError,
            match=f'{name} is {value}, expected an integer of at least '
            f'{lowest}'):
        generate_shapes(tmp_path / 'set', **{name: value})
    assert not list(tmp_path.iterdir())
