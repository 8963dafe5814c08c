"""Attention maps against independent formulas and constructed weights."""
import pytest
import torch
import torch.nn.functional as F
from mmhier.models.backbones import HVT, LIT, ACCViT, HATNet, LITv2
from mmhier.models.backbones.lit import resize_bias_table
from mmhier.models.layers import relative_position_bias
from mmhier.visualization import attention_maps


def build(kind, arch, **kwargs):
    torch.manual_seed(0)
    backbone = kind(arch, **kwargs)
    backbone.init_weights()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            # Initial weights attend nearly evenly; these do not.
            if any(
                    part in name
                    for part in ('qkv', '.q.', '.kv.', 'l_q', 'l_kv', 'table')):
                parameter.mul_(8)
    return backbone.eval()


@pytest.fixture(scope='module')
def images():
    # No multiple of the windows, so that some of them are partial.
    return torch.randn(
        1, 3, 120, 136, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def hatnet():
    return build(HATNet, 'tiny')


@pytest.fixture(scope='module')
def accvit():
    return build(ACCViT, 'femto')


def run(backbone, images, *modules):
    """Inputs and outputs of modules in a forward pass."""
    calls = {}
    handles = [
        m.register_forward_hook(
            lambda m, inputs, output: calls.update({m: (inputs, output)}))
        for m in modules
    ]
    with torch.no_grad():
        backbone(images)
    for handle in handles:
        handle.remove()
    return calls


@pytest.mark.parametrize('point', [(0, 0), (135, 119), (70.5, 40.2)])
@pytest.mark.parametrize('stage', [1, 2, 3, 4])
@pytest.mark.parametrize('family', ['hatnet', 'accvit'])
def test_rows_sum_to_one(family, stage, point, images, request):
    backbone = request.getfixturevalue(family)
    maps = attention_maps(backbone, images, point, stage)
    for attention in maps:
        assert (attention.probs >= 0).all()
        torch.testing.assert_close(
            attention.probs.sum((1, 2)), torch.ones(len(attention.probs)))
    names = [attention.name for attention in maps]
    if family == 'accvit':
        dilations = ((1, 2, 4, 8), (1, 2, 4), (1, 2), (1, ))[stage - 1]
        assert names == [f'dilation {d}' for d in dilations]
    else:
        assert names == (['global'] if stage == 4 else ['windows', 'pooled'])


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_hatnet_maps_give_back_the_output_of_the_block(hatnet, images, stage):
    """Values weighted by the maps, for a few tokens, equal the module's."""
    module = hatnet.blocks[stage - 1][0].attn
    parts = [module]
    if stage < 4:
        parts += [module.grid_norm, module.kv]
    calls = run(hatnet, images, *parts)
    x, = calls[module][0]
    height, width = x.shape[1:3]
    stride = 4 * 2**(stage - 1)
    heads = module.num_heads
    close = dict(rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        value = module.qkv(module.norm(x))[0].chunk(3, -1)[2]
        value = value.unflatten(2, (heads, -1))
        for row, column in ((0, 0), (height - 1, width - 1), (height // 2, 2)):
            point = (stride * column + 1, stride * row + 2)
            maps = attention_maps(hatnet, images, point, stage, 0)
            mixed = torch.einsum('hyx,yxhc->hc', maps[0].probs, value)
            mixed = mixed.flatten()
            if stage < 4:
                (total, ), g = calls[module.grid_norm]
                torch.testing.assert_close((total - x)[0, row, column], mixed,
                                           **close)
                pooled = calls[module.kv][1][0].chunk(2, -1)[1]
                pooled = pooled.unflatten(1, (heads, -1))
                mixed = g[0, row, column] + torch.einsum(
                    'hn,nhc->hc', maps[1].probs.flatten(1), pooled).flatten()
            torch.testing.assert_close(calls[module][1][0, row, column],
                                       module.proj(mixed), **close)


@pytest.mark.parametrize('stage', [1, 2, 4])
def test_accvit_maps_give_back_the_output_of_each_branch(accvit, images, stage):
    branches = accvit.stages[stage - 1][-1].attn.branches
    calls = run(accvit, images, *branches)
    stride = 4 * 2**(stage - 1)
    x = calls[branches[0]][0][0]
    height, width = x.shape[1:3]
    for row, column in ((0, 0), (height - 1, width - 1), (3, width // 2)):
        maps = attention_maps(accvit, images, (stride * column, stride * row),
                              stage)
        for branch, attention in zip(branches, maps):
            with torch.no_grad():
                normed = branch.norm(x[0])
                value = branch.qkv(normed).chunk(3, -1)[2]
                value = value.unflatten(2, (branch.num_heads, -1))
                mixed = torch.einsum('hyx,yxhc->hc', attention.probs, value)
                expected = branch.proj(mixed.flatten())
            torch.testing.assert_close(
                calls[branch][1][0, row, column],
                expected,
                rtol=1e-3,
                atol=1e-4)


@pytest.mark.parametrize('arch, out_type', [('tiny', 'featmap'),
                                            ('small', 'featmap'),
                                            ('tiny', 'cls_token')])
def test_lit_equals_an_independent_softmax(images, arch, out_type):
    backbone = build(LIT, arch, out_type=out_type)
    stage = 4 if out_type == 'cls_token' else 3
    module = backbone.layers[stage - 1].blocks[1].attn
    (x, height, width), _ = run(backbone, images, module)[module]
    q, k, _ = module.qkv(x)[0].unflatten(1, (3, module.num_heads, -1)).permute(
        1, 2, 0, 3)
    logits = q @ k.transpose(1, 2) / q.shape[-1]**0.5
    if module.bias_size is not None:
        logits = logits + relative_position_bias(
            resize_bias_table(module.relative_position_bias_table, height,
                              width), height, width)
    probs = logits.softmax(-1).detach()
    stride = 4 * 2**(stage - 1)
    extra = x.shape[1] - height * width
    assert extra == (out_type == 'cls_token')
    for row, column in ((0, 0), (height - 1, width - 1), (2, 4)):
        attention, = attention_maps(backbone, images,
                                    (stride * column + 3, stride * row + 3),
                                    stage, 1)
        expected = probs[:, extra + row * width + column, extra:]
        torch.testing.assert_close(
            attention.probs.flatten(1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('stage, window_size, names', [
    (3, 2, ['windows', 'pooled']),
    (3, 3, ['windows', 'pooled']),
    (4, 2, ['global']),
])
def test_litv2_values_weighted_by_the_maps_are_the_output(
        images, stage, window_size, names):
    backbone = build(LITv2, 'small', window_size=window_size)
    module = backbone.layers[stage - 1].blocks[1].attn
    (x, ), out = run(backbone, images, module)[module]
    stride, size = 4 * 2**(stage - 1), module.window_size
    padded = F.pad(x, (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    pooled = F.avg_pool2d(padded.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    for row, column in ((0, 0), (out.shape[1] - 1, out.shape[2] - 1), (2, 3)):
        maps = attention_maps(backbone, images,
                              (stride * column + 3, stride * row + 3), stage, 1)
        assert [m.name for m in maps] == names
        parts = []
        for attention in maps:
            high = attention.name == 'windows'
            assert attention.cell == (stride if high else stride * size)
            kv = module.h_qkv(padded) if high else module.l_kv(pooled)
            proj = module.h_proj if high else module.l_proj
            values = kv[0, ..., -proj.in_features:].unflatten(
                -1, (len(attention.probs), -1))
            mixed = torch.einsum('hyx,yxhd->hd', attention.probs, values)
            parts.append(proj(mixed.flatten()))
        torch.testing.assert_close(
            torch.cat(parts), out[0, row, column], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('size', [(224, 224), (160, 208)])
@pytest.mark.parametrize('arch, pool_mode', [('ti-1', '1d'), ('s-4', '1d'),
                                             ('s-4', '2d'), ('s-4', 'none')])
def test_hvt_equals_an_independent_softmax(arch, pool_mode, size):
    backbone = build(HVT, arch, pool_mode=pool_mode)
    # Of images on which no two tokens are attended to alike.
    images = torch.randn(
        1, 3, *size, generator=torch.Generator().manual_seed(0))
    module = backbone.blocks[4]
    (x, ), _ = run(backbone, images, module.attn)[module.attn]
    q, k, _ = module.attn.qkv(x)[0].unflatten(
        1, (3, module.attn.num_heads, -1)).permute(1, 2, 0, 3)
    probs = (q @ k.transpose(1, 2) / q.shape[-1]**0.5).softmax(-1).detach()
    # Block 4 is the second of stage 2. The first token starts at the first
    # patch; the last patch belongs to the last token.
    for point, token in (((0, 0), 0), ((size[1] - 1, size[0] - 1), -1)):
        attention, = attention_maps(backbone, images, point, 2, 1)
        assert attention.probs.shape[1:] == (size[0] // 16, size[1] // 16)
        for head, row in zip(attention.probs, probs[:, token]):
            # Every token appears, and nothing else.
            torch.testing.assert_close(head.unique(), row.unique())
        assert attention.probs[:, 0, 0] == pytest.approx(
            probs[:, token, 0].numpy(), rel=1e-4)
        assert attention.probs[:, -1, -1] == pytest.approx(
            probs[:, token, -1].numpy(), rel=1e-4)


def test_peak_lies_where_it_was_constructed():
    """Keys and queries that are large at one pixel's features alone."""
    backbone = build(HVT, 's-0').eval()
    module = backbone.blocks[0]
    with torch.no_grad():
        # Positions alone tell tokens apart: token i holds a code of its own.
        backbone.patch_embed.proj.weight.zero_()
        backbone.patch_embed.proj.bias.zero_()
        codes = torch.randn(
            196, 384, generator=torch.Generator().manual_seed(1))
        backbone.pos_embed[0] = codes
        normed = module.norm1(codes)
        weight = torch.zeros(3, 384, 384)
        # Queries are the normed codes, the key of patch (r, c) is the code
        # of patch (r, c - 2): so each attends to two columns to its right.
        target = normed.view(14, 14, 384).roll(2, 1).view(196, 384)
        weight[0] = 3 * torch.eye(384)
        weight[1] = torch.linalg.lstsq(normed, target).solution.t()
        module.attn.qkv.weight.copy_(weight.flatten(0, 1))
        module.attn.qkv.bias.zero_()
    attention, = attention_maps(backbone, torch.zeros(1, 3, 224, 224),
                                (16 * 5 + 8, 16 * 9 + 8), 1, 0)
    for head in attention.probs:
        assert divmod(head.argmax().item(), 14) == (9, 7)
        assert head[9, 7] > 0.99
    assert attention.cell == 16


def test_windows_hold_the_token(hatnet, accvit, images):
    point, stride = (100, 90), 4
    row, column = 90 // stride, 100 // stride
    windows, pooled = attention_maps(hatnet, images, point, 1)
    rows, columns = windows.probs[0].nonzero().t()
    assert rows.min() == row // 8 * 8 and rows.max() == row // 8 * 8 + 7
    assert columns.min() == column // 8 * 8
    assert (windows.cell, pooled.cell) == (4, 32)
    assert pooled.probs.shape[1:] == (-(-30 // 8), -(-34 // 8))
    for attention, dilation in zip(
            attention_maps(accvit, images, point, 1), (1, 2, 4, 8)):
        rows, columns = attention.probs[0].nonzero().t()
        assert {r % dilation for r in rows.tolist()} == {row % dilation}
        assert {c % dilation for c in columns.tolist()} == {column % dilation}
        assert attention.probs[0, row, column] > 0


@pytest.mark.parametrize('arguments, message', [
    (dict(point=(136, 0)), 'outside of the image of 136x120'),
    (dict(point=(0, -1)), 'outside of the image'),
    (dict(stage=5), 'stage 5: expected 1, 2, 3 or 4'),
    (dict(block=2, stage=1), 'has 2 blocks with attention, so there is no '
     'block 2'),
])
def test_mistakes(hatnet, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_maps(hatnet, images, **dict(dict(point=(0, 0)), **arguments))


def test_stage_without_attention(images):
    with pytest.raises(ValueError, match='stage 2 of LIT has 0 blocks'):
        attention_maps(LIT('tiny').eval(), images, (0, 0), 2)


def test_other_backbones(images):
    with pytest.raises(ValueError, match='Conv2d is no backbone of mmhier'):
        attention_maps(torch.nn.Conv2d(3, 4, 3), images, (0, 0))
