from .attention import AttentionMap, attention_maps
from .dataset import annotated_pictures
from .drawing import (
    add_title,
    arrange,
    colour_map,
    draw_scale_bar,
    mark_point,
    overlay_heat,
    upscale_cells,
)
from .features import mean_map, pca_map
from .offsets import sampling_points
from .receptive_field import effective_receptive_field, field_square

__all__ = [
    'AttentionMap', 'add_title', 'annotated_pictures', 'arrange',
    'attention_maps', 'colour_map', 'draw_scale_bar',
    'effective_receptive_field', 'field_square', 'mark_point', 'mean_map',
    'overlay_heat', 'pca_map', 'sampling_points', 'upscale_cells'
]
