"""Draw the shapes set: detection, segmentation and classification at once.

Example:
    python tools/dataset_tools/generate_shapes.py data/shapes
"""
import argparse

from mmhier.datasets import generate_shapes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', help='root of the set')
    parser.add_argument(
        '--num-train', type=int, default=800, help='defaults to 800')
    parser.add_argument(
        '--num-val', type=int, default=160, help='defaults to 160')
    parser.add_argument(
        '--image-size',
        type=int,
        default=192,
        help='height and width in pixels; defaults to 192')
    parser.add_argument('--seed', type=int, default=0, help='defaults to 0')
    arguments = parser.parse_args()
    try:
        is_new = generate_shapes(**vars(arguments))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f'{arguments.out_dir}: ' + ('the set was drawn.' if is_new else
                                      'reused, it holds the same set already.'))


if __name__ == '__main__':
    main()
