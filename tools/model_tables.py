"""Write the measured figures of the metafiles, and the README tables.

A family's metafile.yml holds what its README lists. Parameters and FLOPs in
it are measured, results are published ones with their source.

Example:
    python tools/model_tables.py             # write configs/*/README.md
    python tools/model_tables.py --check     # fail if one is out of step
    python tools/model_tables.py --measure   # count anew first, in minutes
"""
import argparse
import logging
from pathlib import Path

import yaml
from mmhier.errors import MMHierError, run_tool
from mmhier.files import replace_at_marks, write_text

ROOT = Path(__file__).parents[1]
START = '<!-- Tables from metafile.yml, by tools/model_tables.py. -->\n'
END = '<!-- End of the tables. -->\n'
# Title, name of the dataset, and columns of published metrics.
TABLES = (
    ('ImageNet-1k', 'ImageNet-1k', ('Top 1 Accuracy', 'Top 5 Accuracy')),
    ('COCO', 'COCO',
     tuple(f'{kind} AP{threshold}' for kind in ('box', 'mask')
           for threshold in ('', '50', '75'))),
    ('ADE20K', 'ADE20K', ('mIoU', )),
)


def read_metafile(path: Path) -> dict:
    """Content of a metafile."""
    return yaml.safe_load(path.read_text())


def measure(metafile: dict) -> None:
    """Count parameters and FLOPs of each model anew, in place."""
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmhier.analysis import count_config_complexity
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    for model in metafile['Models']:
        cfg = Config.fromfile(ROOT / model['Config'])
        data = model['Metadata']
        cost = count_config_complexity(cfg, data['Input Size'])
        data.update(Parameters=cost.params, FLOPs=cost.macs)


def model_tables(metafile: dict) -> str:
    """Markdown tables of a metafile, of the data sets that it has."""
    tables = []
    for title, dataset, metrics in TABLES:
        models = [
            model for model in metafile['Models']
            if model['Metadata']['Training Data'] == dataset
        ]
        published = {
            metric
            for model in models
            for result in model.get('Results', ())
            for metric in result['Metrics']
        }
        # Some families publish AP at single thresholds, too.
        columns = tuple(
            metric for metric in metrics
            if metric in published or not metric.endswith(('50', '75')))
        if models:
            tables.append(_table(title, columns, models))
    return '\n'.join(tables)


def _table(title: str, metrics: tuple, models: list) -> str:
    sizes = {tuple(model['Metadata']['Input Size']) for model in models}
    rows = []
    for model in models:
        data = model['Metadata']
        published = {}
        for result in model.get('Results', ()):
            published.update(result['Metrics'], Source=result['Source'])
        name = Path(model['Config']).name
        digits = 1 if data['FLOPs'] > 1e10 else 2
        row = {'Config': f'[{Path(name).stem}]({name})'}
        if len(sizes) > 1:
            row['Size'] = '{}x{}'.format(*data['Input Size'])
        row['Params (M)'] = f'{data["Parameters"] / 1e6:.1f}'
        row['FLOPs (G)'] = f'{data["FLOPs"] / 1e9:.{digits}f}'
        if any('FPS' in model['Metadata'] for model in models):
            row['FPS'] = data.get('FPS', '')
        row.update({key: published.get(key, '') for key in metrics})
        row['Source'] = published.get('Source', '')
        row['Official weights'] = data.get('Official Weights', '')
        rows.append(row)
    where = 'this size'
    if len(sizes) == 1:
        where = '{}x{}'.format(*sizes.pop())
    lines = [
        f'## {title}\n\nFLOPs are multiply-adds at {where}.\n',
        *(f'| {" | ".join(map(str, cells))} |'
          for cells in (rows[0], ['---'] * len(rows[0]), *(row.values()
                                                           for row in rows)))
    ]
    return '\n'.join(lines) + '\n'


def family_table(metafiles: list[dict]) -> str:
    """Markdown table with a row for each family: ranges over its models."""
    rows = []
    for metafile in metafiles:
        collection, = metafile['Collections']
        classifiers = [
            model for model in metafile['Models']
            if model['Metadata']['Training Data'] == 'ImageNet-1k'
            and model['Metadata']['Input Size'] == [224, 224]
        ]
        names = [m['Name'].partition('_')[0] for m in classifiers]
        data = [model['Metadata'] for model in classifiers]
        weights = any('Official Weights' in model['Metadata']
                      for model in metafile['Models'])
        rows.append({
            'Family':
            f'[{collection["Name"]}]({collection["README"]})',
            'Variants':
            ', '.join(n.partition('-')[2] for n in names),
            'Params (M)':
            _range([d['Parameters'] / 1e6 for d in data]),
            'GMACs':
            _range([d['FLOPs'] / 1e9 for d in data]),
            'Top-1':
            _range(_published(metafile, 'Top 1 Accuracy')),
            'COCO box AP':
            _range(_published(metafile, 'box AP')),
            'ADE20K mIoU':
            _range(_published(metafile, 'mIoU')),
            "Authors' weights":
            'load by name' if weights else 'none exist',
        })
    cells = (rows[0], ['---'] * len(rows[0]), *(r.values() for r in rows))
    return ''.join(f'| {" | ".join(row)} |\n' for row in cells)


def _published(metafile: dict, metric: str) -> list[float]:
    return [
        result['Metrics'][metric] for model in metafile['Models']
        for result in model.get('Results', ()) if metric in result['Metrics']
    ]


def _range(values: list[float]) -> str:
    if not values:
        return ''
    low, high = f'{min(values):.1f}', f'{max(values):.1f}'
    return low if low == high else f'{low} - {high}'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing, fail if a table is out of step')
    parser.add_argument(
        '--measure',
        action='store_true',
        help='count parameters and FLOPs anew and write the metafiles first')
    arguments = parser.parse_args()
    stale: list[Path] = []
    metafiles: list[dict] = []
    tables: dict[Path, str] = {}
    for name in yaml.safe_load(
        (ROOT / 'model-index.yml').read_text())['Import']:
        path = ROOT / name
        metafile = read_metafile(path)
        metafiles.append(metafile)
        if arguments.measure:
            measure(metafile)
            text = yaml.safe_dump(metafile, sort_keys=False, width=79)
            if text != path.read_text():
                stale.append(path)
                if not arguments.check:
                    write_text(path, text)
        tables[path.with_name('README.md')] = model_tables(metafile)
    tables[ROOT / 'README.md'] = family_table(metafiles)
    for readme, table in tables.items():
        text = replace_at_marks(readme.read_text(), START, END, table, readme)
        if text != readme.read_text():
            stale.append(readme)
            if not arguments.check:
                write_text(readme, text)
    names = ', '.join(str(path.relative_to(ROOT)) for path in stale)
    if arguments.check and stale:
        raise MMHierError(f'out of step: {names}; run tools/model_tables.py' +
                          ' --measure' * arguments.measure)
    print(f'wrote {names}' if stale else 'all tables are in step')


if __name__ == '__main__':
    run_tool(main)
