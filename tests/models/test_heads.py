"""What every family of heads promises, and how the blocks are held together."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.xcit import XCABlock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headsearch.errors import UserError
from headsearch.models.heads import FAMILIES, build_head, head_cost
from headsearch.models.heads.attention import LAYER_NORM, LinearAttention, attention_heads
from headsearch.models.heads.frequency import GlobalFilter
from headsearch.models.heads.large_kernel import LargeKernelAttention
from headsearch.models.heads.layout import ChannelsLastBlocks, TokenBlocks
from headsearch.models.heads.norm import renormalised
from headsearch.models.heads.shortcuts import NoShortcut
from headsearch.models.heads.width import AtWidth, inner_width

DIM = 48
GRIDS = [(4, 4), (5, 7), (8, 8)]
FOUND = [name for name, family in FAMILIES.items() if not family.control]
OPENED = [name for name in FOUND if "first_shortcut" in FAMILIES[name].parameters]
# Every family as it is, and in every way that a space may make it differ more from its base.
CHANGES = (
    {},
    {"first_shortcut": False},
    {"shortcuts": False},
    {"width": 0.5},
    {"norm": "none"},
    {"norm": "layer"},
)
VARIANTS = [
    (name, change)
    for change in CHANGES
    for name in FOUND
    if change.keys() <= FAMILIES[name].parameters.keys()
    and change.get("norm") != FAMILIES[name].norm  # the same head as it is
    and not (change.get("norm") == "none" and FAMILIES[name].multiplies)
]
IDS = [
    "-".join([name, *(f"{key}={value}" for key, value in change.items())])
    for name, change in VARIANTS
]
# Heads may be attached to any map from 4×4 to 16×16.
SIZES = [(4, 4), (5, 5), (7, 7), (8, 8), (11, 11), (14, 14), (16, 16), (4, 15), (16, 5), (7, 13)]


def build(family: str, grid: tuple[int, int] = (4, 4), dim: int = DIM, **parameters) -> nn.Module:
    torch.manual_seed(0)
    return build_head(family, dim, grid, parameters)


def random_map(grid: tuple[int, int], batch: int = 3, dim: int = DIM, dtype=None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, dim, *grid, generator=generator, dtype=dtype)


def test_the_registry_is_consistent():
    for name, family in FAMILIES.items():
        assert name == family.name
        assert name.isalnum()
        assert name == name.lower()
        for parameter_name, parameter in family.parameters.items():
            assert parameter.check(parameter_name, parameter.default) == parameter.default
            assert parameter.label.format(parameter.default) != ""
    # The control `own` takes any family that a base may be of by its depth.
    assert all("depth" in FAMILIES[name].parameters for name in FOUND)
    labels = [p.label for f in FAMILIES.values() for p in f.parameters.values()]
    kinds = {n: p.label for f in FAMILIES.values() for n, p in f.parameters.items()}
    assert len(set(labels)) == len(kinds), "two parameters would look the same in a name"


def test_there_are_sixteen_families_of_different_bias():
    assert len({FAMILIES[name].bias for name in FOUND if name != "hybrid"}) >= 16


def test_every_family_can_be_made_to_differ_more():
    for name in FOUND:
        assert {"depth", "first_shortcut", "shortcuts", "width"} <= FAMILIES[name].parameters.keys()
    without_norm = [name for name in FOUND if "norm" not in FAMILIES[name].parameters]
    assert without_norm == ["resmlp"]  # whose blocks have no norm to put another in place of


@pytest.mark.parametrize("family", FOUND)
def test_a_head_trains_on_maps_of_every_size(family):
    """In float32 and bfloat16: the shape kept, all finite, gradients everywhere, a cost counted."""
    for grid in SIZES:
        head = build(family, grid, 16, depth=1)
        map_BDHW = random_map(grid, 2, 16).requires_grad_()
        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                out_BDHW = head(map_BDHW)
                assert out_BDHW.shape == map_BDHW.shape, (grid, precision)
            weights = dict(head.named_parameters())
            gradients = torch.autograd.grad(
                F.mse_loss(out_BDHW.float(), random_map(grid, 2, 16).flip(0)),
                [map_BDHW, *weights.values()],
            )
            for name, gradient in zip(("base", *weights), gradients, strict=True):
                assert gradient.isfinite().all(), (grid, precision, name)
                assert gradient.abs().max() > 0, (grid, precision, name)
        cost = head_cost(family, 16, grid, {"depth": 1})
        assert cost.params_m * 1e6 == sum(w.numel() for w in head.parameters()), grid
        assert cost.gflops > 0


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("grid", GRIDS[1:], ids=str)
def test_a_head_keeps_the_map_and_changes_what_is_on_it(family, parameters, grid):
    head = build(family, grid, **parameters)
    map_BDHW = random_map(grid)
    out_BDHW = head(map_BDHW)
    assert out_BDHW.shape == map_BDHW.shape
    assert out_BDHW.dtype == torch.float32
    assert out_BDHW.isfinite().all()
    assert not torch.allclose(out_BDHW, map_BDHW, atol=1e-3)


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_a_forward_is_the_same_each_time_in_training_and_evaluation(family, parameters):
    head = build(family, **parameters)
    map_BDHW = random_map((4, 4))
    state = torch.get_rng_state()
    first = head.train()(map_BDHW)
    assert torch.equal(first, head(map_BDHW))
    assert torch.equal(first, head.eval()(map_BDHW))
    assert torch.equal(state, torch.get_rng_state()), "the forward drew a random number"


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_an_image_does_not_see_the_others_of_its_batch(family, parameters):
    head = build(family, **parameters).double()
    map_BDHW = random_map((4, 4), dtype=torch.float64)
    torch.testing.assert_close(head(map_BDHW)[:1], head(map_BDHW[:1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_gradients_reach_every_parameter_and_the_base(family, parameters, grid):
    head = build(family, grid, **parameters)
    map_BDHW = random_map(grid).requires_grad_()
    target_BDHW = random_map(grid).flip(0)
    F.mse_loss(head(map_BDHW), target_BDHW).backward()
    for name, weight in head.named_parameters():
        assert weight.grad is not None, f"{name} is not used"
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 0, f"{name} has no gradient"
    assert map_BDHW.grad is not None
    # Every cell of the base's map matters to the head.
    assert (map_BDHW.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_bf16_autocast_is_close_and_trains(family, parameters):
    head = build(family, **parameters)
    map_BDHW = random_map((4, 4))
    exact = head(map_BDHW)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(map_BDHW)
        rough.float().square().mean().backward()
    assert (rough - exact).square().mean() < 0.05**2 * exact.square().mean()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in head.parameters())


@pytest.mark.parametrize("family", FOUND)
def test_weights_follow_the_seed(family):
    first, again = build(family).state_dict(), build(family).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = build_head(family, DIM, (4, 4), {}).state_dict()  # the generator has moved on
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_a_teacher_can_be_copied_from_a_head(family, parameters):
    student = build(family, **parameters)
    teacher = copy.deepcopy(student)
    for weight in teacher.parameters():
        weight.data.zero_()
    fresh = build(family, **parameters)
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(fresh(random_map((4, 4))), student(random_map((4, 4))))


@pytest.mark.parametrize("family", FOUND)
@pytest.mark.parametrize("dim", [96, 192, 100])
def test_any_width_of_a_base_can_be_built(family, dim):
    head = build(family, dim=dim, depth=1)
    assert head(random_map((4, 4), 1, dim)).shape == (1, dim, 4, 4)


@pytest.mark.parametrize("family", FOUND)
def test_wide_bases_and_large_maps_have_a_cost(family):
    cost = head_cost(family, 2048, (16, 16), {"depth": 1})
    assert cost.params_m > 1
    # At least the channel mixing of every token: two operations a weight of it.
    assert cost.gflops > 1


@pytest.mark.parametrize("family", FOUND)
def test_depth_is_the_number_of_blocks(family):
    def params(depth: int) -> float:
        return head_cost(family, DIM, (4, 4), {"depth": depth}).params_m

    assert params(3) - params(2) == pytest.approx(params(2) - params(1), rel=1e-12)
    assert params(2) == pytest.approx(2 * params(1), rel=1e-12)


# PoolFormer takes the token itself away from the mean of its neighbours; its formula is below.
@pytest.mark.parametrize("family", [name for name in FOUND if name != "poolformer"])
@pytest.mark.parametrize(("grid", "cell"), [((4, 4), (0, 3)), ((5, 7), (1, 5)), ((7, 4), (5, 1))])
def test_places_stay_where_they_are(family, grid, cell):
    """A change at one cell shows most at that very cell: rows and columns are not mixed up."""
    # One block; small steps, for which the residual carries the change through as it is.
    head = build(family, grid, depth=1).double()
    map_BDHW = random_map(grid, 1, dtype=torch.float64)
    moved_BDHW = map_BDHW.clone()
    moved_BDHW[..., cell[0], cell[1]] += (
        0.1 * random_map((1, 1), 1, dtype=torch.float64)[0, :, 0, 0]
    )
    change_HW = (head(moved_BDHW) - head(map_BDHW)).abs().sum((0, 1))
    assert divmod(int(change_HW.argmax()), grid[1]) == cell


LOCAL = {
    "convnext": ({"kernel": 3}, lambda r, c: abs(r) <= 1 and abs(c) <= 1),
    "mambaout": ({"kernel": 5}, lambda r, c: abs(r) <= 2 and abs(c) <= 2),
    "bottleneck": ({"kernel": 3}, lambda r, c: abs(r) <= 1 and abs(c) <= 1),
    "mbconv": ({"kernel": 3}, lambda r, c: abs(r) <= 1 and abs(c) <= 1),
    "convmixer": ({"kernel": 5}, lambda r, c: abs(r) <= 2 and abs(c) <= 2),
    "dilated": (
        {"kernel": 3, "dilation": 2},
        lambda r, c: r in (-2, 0, 2) and c in (-2, 0, 2),
    ),
    # A 3×3, and a row and a column of five tokens.
    "inceptionnext": (
        {"kernel": 5},
        lambda r, c: (
            max(abs(r), abs(c)) <= 1 or (r == 0 and abs(c) <= 2) or (c == 0 and abs(r) <= 2)
        ),
    ),
}


@pytest.mark.parametrize("family", LOCAL)
def test_a_kernel_reaches_as_far_as_its_side(family):
    parameters, reached = LOCAL[family]
    grid, cell = (5, 7), (1, 5)
    head = build(family, grid, depth=1, **parameters).double()
    # Group norm lets all of a map know its scale: hold it still.
    for module in head.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = module.act.forward
    map_BDHW = random_map(grid, 1, dtype=torch.float64).requires_grad_()
    head(map_BDHW)[..., cell[0], cell[1]].square().sum().backward()
    seen_HW = map_BDHW.grad.abs().sum((0, 1)) > 0
    for row in range(grid[0]):
        for column in range(grid[1]):
            assert seen_HW[row, column] == reached(row - cell[0], column - cell[1])


@pytest.mark.parametrize(
    ("depth", "window", "seen_rows", "seen_columns"),
    [
        (1, 2, {0, 1}, {0, 1}),  # the 2×2 window of the corner
        (2, 2, {0, 1}, {0, 1}),  # shifted by one, the corner is a window of its own
        (1, 8, {0, 1, 2, 3}, {0, 1, 2, 3}),  # a window larger than the map is the map
    ],
)
def test_swin_attends_within_windows(depth, window, seen_rows, seen_columns):
    head = build("swin", (4, 4), depth=depth, window=window).double()
    map_BDHW = random_map((4, 4), 1, dtype=torch.float64).requires_grad_()
    head(map_BDHW)[..., 0, 0].square().sum().backward()
    # timm masks with −100, not −∞: what is masked has a weight of e⁻¹⁰⁰.
    seen = (map_BDHW.grad.abs().sum((0, 1)) > 1e-30).nonzero().tolist()
    assert {r for r, _ in seen} == seen_rows
    assert {c for _, c in seen} == seen_columns


def test_swin_shifts_every_other_window():
    head = build("swin", (4, 4), depth=2, window=2).double()
    map_BDHW = random_map((4, 4), 1, dtype=torch.float64).requires_grad_()
    # Cell (1, 1) shares its shifted window with rows and columns 1 and 2, and each of those their
    # plain window with 0 or 3: all of the map.
    head(map_BDHW)[..., 1, 1].square().sum().backward()
    assert (map_BDHW.grad.abs().sum((0, 1)) > 1e-30).all()


def test_tokens_are_read_row_by_row():
    class Record(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            return x

    map_BDHW = random_map((2, 3))
    tokens, channels_last = Record(), Record()
    assert torch.equal(TokenBlocks([tokens])(map_BDHW), map_BDHW)
    assert torch.equal(ChannelsLastBlocks([channels_last])(map_BDHW), map_BDHW)
    for row in range(2):
        for column in range(3):
            cell_BD = map_BDHW[:, :, row, column]
            assert torch.equal(tokens.seen[:, row * 3 + column], cell_BD)
            assert torch.equal(channels_last.seen[:, row, column], cell_BD)


ONE_RESIDUAL = {"convnext", "mambaout", "bottleneck", "dilated", "mbconv", "inceptionnext", "gmlp"}
# Not one residual and then at most an MLP's: their formulas are below.
OF_THEIR_OWN = {"convmixer", "xcit", "hybrid"}


@pytest.mark.parametrize("family", sorted(set(OPENED) - OF_THEIR_OWN))
def test_without_its_first_shortcut_a_block_lacks_exactly_its_input(family):
    torch.manual_seed(0)
    closed = build(family, depth=1).double()
    opened = build(family, depth=1, first_shortcut=False).double()
    weights = [weight.clone() for weight in closed.parameters()]
    for weight, own in zip(weights, opened.parameters(), strict=True):
        assert torch.equal(weight, own), "the switch must not change how a head begins"
    if family not in ONE_RESIDUAL:
        # The second residual, around the channel MLP, stays: silence it in both.
        for head in (closed, opened):
            for name, weight in head.named_parameters():
                if "mlp" in name and "mlp_tokens" not in name and ".fc2." in name:
                    weight.data.zero_()
    map_BDHW = random_map((4, 4), dtype=torch.float64)
    torch.testing.assert_close(opened(map_BDHW), closed(map_BDHW) - map_BDHW, rtol=0, atol=1e-12)
    assert opened(map_BDHW).abs().max() > 0


def blocks(head: nn.Module) -> nn.Sequential:
    return head if isinstance(head, nn.Sequential) else head.blocks


@pytest.mark.parametrize("family", OPENED)
def test_without_any_shortcut_every_block_is_as_the_first_without_its_own(family):
    torch.manual_seed(0)
    changed = {"depth": 2} if family != "hybrid" else {"depth": 1}
    kept = build(family, **changed)
    first = build(family, **changed, first_shortcut=False)
    none = build(family, **changed, shortcuts=False)
    none.load_state_dict({**none.state_dict(), **_by_order(kept, none)})
    first.load_state_dict(_by_order(kept, first))
    map_BDHW = random_map((4, 4))
    handed_on = blocks(first)[0](_laid_out(first, map_BDHW))
    assert torch.equal(blocks(none)[0](_laid_out(none, map_BDHW)), handed_on)
    ends = [blocks(head)[1](handed_on) for head in (kept, first, none)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[1], ends[2])


def _by_order(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """The source's weights under the target's names, which differ where a block is wrapped."""
    return dict(zip(target.state_dict(), source.state_dict().values(), strict=True))


def _laid_out(head: nn.Module, map_BDHW: Tensor) -> Tensor:
    """A map in the layout of a head's blocks."""
    if isinstance(head, TokenBlocks):
        return map_BDHW.flatten(2).transpose(1, 2)
    return map_BDHW.permute(0, 2, 3, 1) if isinstance(head, ChannelsLastBlocks) else map_BDHW


@pytest.mark.parametrize("family", OPENED)
def test_heads_that_lack_the_same_shortcuts_are_settled_alike(family):
    settled = FAMILIES[family].settled
    one, two = {"depth": 1}, {"depth": 2}
    all_gone = settled(DIM, (4, 4), {**two, "shortcuts": False})
    assert all_gone == settled(DIM, (4, 4), {**two, "shortcuts": False, "first_shortcut": False})
    assert all_gone != settled(DIM, (4, 4), {**two, "first_shortcut": False})
    if family != "hybrid":  # whose shortest has two blocks
        assert settled(DIM, (4, 4), {**one, "shortcuts": False}) == settled(
            DIM, (4, 4), {**one, "first_shortcut": False}
        )


@pytest.mark.parametrize("family", OPENED)
def test_only_the_first_shortcut_is_dropped(family):
    """After the first block, the head without its shortcut is the head with it."""
    closed, opened = (build(family, depth=2, first_shortcut=kept) for kept in (True, False))
    handed_on = []
    hook = blocks(opened)[1].register_forward_pre_hook(
        lambda _, inputs: handed_on.append(inputs[0])
    )
    opened(random_map((4, 4)))
    hook.remove()
    second = blocks(closed)[1](handed_on[0])
    assert torch.equal(second, blocks(opened)[1](handed_on[0]))
    assert not torch.allclose(blocks(closed)[0](handed_on[0]), blocks(opened)[0](handed_on[0]))


def test_a_convnext_head_is_the_formula():
    """HSSL's first block: depth-wise 7×7, LayerNorm, MLP of 4×; no layer scale and no shortcut."""
    head = build("convnext", (5, 7), depth=1, first_shortcut=False).double()
    w = head.state_dict()
    assert not any("gamma" in name for name in w)
    map_BDHW = random_map((5, 7), dtype=torch.float64)
    padded = F.pad(map_BDHW, (3, 3, 3, 3))
    expected = torch.zeros_like(map_BDHW)
    for row in range(5):
        for column in range(7):
            patch = padded[:, :, row : row + 7, column : column + 7]
            x = (patch * w["0.conv_dw.weight"][:, 0]).sum((2, 3)) + w["0.conv_dw.bias"]
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-6).sqrt()
            x = x * w["0.norm.weight"] + w["0.norm.bias"]
            x = F.gelu(x @ w["0.mlp.fc1.weight"].T + w["0.mlp.fc1.bias"])
            expected[:, :, row, column] = x @ w["0.mlp.fc2.weight"].T + w["0.mlp.fc2.bias"]
    torch.testing.assert_close(head(map_BDHW), expected, rtol=0, atol=1e-12)


def test_a_poolformer_head_is_the_formula():
    """Mean over the neighbours that lie on the map, less the token; then the MLP."""
    head = build("poolformer", (5, 7), depth=1, first_shortcut=False).double()
    w = {name.removeprefix("0."): weight for name, weight in head.state_dict().items()}
    map_BDHW = random_map((5, 7), 1, dtype=torch.float64)

    def norm(x, weight):
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt() * weight[:, None, None]

    normed = norm(map_BDHW, w["norm1.weight"])
    mixed = torch.zeros_like(normed)
    for row in range(5):
        for column in range(7):
            near = normed[..., max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            mixed[..., row, column] = near.mean((2, 3)) - normed[..., row, column]
    hidden = F.conv2d(norm(mixed, w["norm2.weight"]), w["mlp.fc1.weight"], w["mlp.fc1.bias"])
    expected = mixed + F.conv2d(F.gelu(hidden), w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    torch.testing.assert_close(head(map_BDHW), expected, rtol=0, atol=1e-12)


def test_a_convmixer_head_is_the_formula():
    """Depth-wise kernel, GELU, norm; a shortcut around these; the same with a point-wise kernel."""
    for kept in (True, False):
        head = build("convmixer", (5, 7), depth=1, kernel=3, first_shortcut=kept).double()
        w = list(head.state_dict().values())
        map_BDHW = random_map((5, 7), dtype=torch.float64)

        def norm(x, weight, bias):
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-6).sqrt()
            return x * weight[:, None, None] + bias[:, None, None]

        x = norm(F.gelu(F.conv2d(map_BDHW, w[0], w[1], padding=1, groups=DIM)), w[2], w[3])
        x = x + map_BDHW if kept else x
        x = norm(F.gelu(F.conv2d(x, w[4], w[5])), w[6], w[7])
        torch.testing.assert_close(head(map_BDHW), x, rtol=0, atol=1e-12)


def test_an_xcit_block_is_the_published_one_but_for_its_local_norm():
    head = build("xcit", (5, 7), depth=1).double()
    published = XCABlock(DIM, 1, qkv_bias=True, norm_layer=LAYER_NORM)
    published.local_mp.bn = LayerNorm2d(DIM)
    published.double().load_state_dict(_by_order(head, published))
    tokens_BND = random_map((5, 7), dtype=torch.float64).flatten(2).transpose(1, 2)
    ours = head.blocks[0](tokens_BND)
    torch.testing.assert_close(ours, published(tokens_BND, 5, 7), rtol=0, atol=1e-12)
    # Without the shortcut of its first residual, and the others silent, what it lacks is its input.
    for scale in (published.gamma2, published.gamma3):
        scale.data.zero_()
    opened = build("xcit", (5, 7), depth=1, first_shortcut=False).double()
    opened.load_state_dict(_by_order(published, opened))
    torch.testing.assert_close(
        opened.blocks[0](tokens_BND), published(tokens_BND, 5, 7) - tokens_BND, rtol=0, atol=1e-12
    )


def test_linear_attention_is_the_formula():
    """Katharopoulos et al. 2020, eq. 4–5: weights φ(q)·φ(k) over their sum, φ(x) = elu(x) + 1."""
    torch.manual_seed(0)
    attention = LinearAttention(8, 2).double()
    tokens_BND = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = attention.qkv(tokens_BND).chunk(3, dim=-1)
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        features = [torch.where(x > 0, x + 1, x.exp())[..., head] for x in (q, k)]
        weights = features[0] @ features[1].transpose(1, 2)
        parts.append((weights / weights.sum(-1, keepdim=True)) @ v[..., head])
    expected = attention.proj(torch.cat(parts, dim=-1))
    torch.testing.assert_close(attention(tokens_BND), expected, rtol=0, atol=1e-12)


def test_a_global_filter_is_a_circular_convolution():
    """The convolution theorem, held against the sum over all shifts of the map."""
    torch.manual_seed(0)
    mixer = GlobalFilter(3, (4, 5)).double()
    map_BDHW = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    # What the filter makes of a single point is its kernel; `ortho` scales by √(HW) each way.
    point_BDHW = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
    point_BDHW[..., 0, 0] = 1
    kernel_DHW = mixer(point_BDHW)[0]
    expected = torch.zeros_like(map_BDHW)
    for row in range(4):
        for column in range(5):
            shifted = map_BDHW.roll((row, column), (2, 3))
            expected += kernel_DHW[:, row, column, None, None] * shifted
    torch.testing.assert_close(mixer(map_BDHW), expected, rtol=0, atol=1e-12)
    # Nothing but the weights decides the kernel.
    waves = torch.complex(*mixer.weight.detach().unbind(-1))
    torch.testing.assert_close(kernel_DHW, torch.fft.irfft2(waves, s=(4, 5)), rtol=0, atol=1e-12)


def test_large_kernel_attention_is_the_formula():
    """Guo et al. 2023, eq. 3–4: Conv1×1(dilated depth-wise(depth-wise(F))) ⊗ F."""
    torch.manual_seed(0)
    mixer = LargeKernelAttention(6, 3).double()
    w = mixer.state_dict()
    map_BDHW = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    features = F.gelu(F.conv2d(map_BDHW, w["into.weight"], w["into.bias"]))
    seen = F.conv2d(features, w["near.weight"], w["near.bias"], padding=2, groups=6)
    spread = torch.zeros(6, 1, 7, 7, dtype=torch.float64)
    spread[..., ::3, ::3] = w["far.weight"]
    seen = F.conv2d(seen, spread, w["far.bias"], padding=3, groups=6)
    seen = F.conv2d(seen, w["mix.weight"], w["mix.bias"])
    expected = F.conv2d(features * seen, w["back.weight"], w["back.bias"])
    torch.testing.assert_close(mixer(map_BDHW), expected, rtol=0, atol=1e-12)


def test_a_hybrid_is_its_two_families_in_turn():
    torch.manual_seed(0)
    head = build_head(
        "hybrid",
        DIM,
        (4, 4),
        {"depth": 2, "near": "convnext", "near_blocks": 2, "far": "resmlp", "order": "far"},
    )
    assert [type(part).__name__ for part in head] == ["TokenBlocks", "Sequential"] * 2
    assert [len(blocks(part)) for part in head] == [1, 2, 1, 2]
    opened = build("hybrid", depth=2, first_shortcut=False)
    assert isinstance(opened[0][0].shortcut, NoShortcut)
    assert isinstance(opened[2][0].shortcut, nn.Identity)
    with pytest.raises(UserError, match="near must be one of"):
        build_head("hybrid", DIM, (4, 4), {"near": "attention"})


def test_families_that_multiply_cannot_do_without_a_norm():
    with pytest.raises(
        UserError, match=r"van.norm must be one of own, layer, batch, but is 'none'"
    ):
        build_head("van", DIM, (4, 4), {"norm": "none"})


# --- Width and norm, which every family has -------------------------------------------------------


@pytest.mark.parametrize("family", FOUND)
def test_a_narrow_head_is_the_family_s_own_between_two_linear_maps(family):
    narrow = build(family, dim=96, width=0.5)
    inside = build(family, dim=48)
    assert {n: w.shape for n, w in narrow.head.named_parameters()} == {
        n: w.shape for n, w in inside.named_parameters()
    }
    assert narrow.into.weight.shape == (48, 96, 1, 1)
    assert narrow.back.weight.shape == (96, 48, 1, 1)
    assert not isinstance(build(family, dim=96, width=1.0), AtWidth)


@pytest.mark.parametrize(
    ("width", "dim", "settled"),
    [(0.5, 384, 0.5), (0.5, 100, 0.48), (0.125, 24, 0.3333), (0.99, 96, 1.0), (2.0, 48, 2.0)],
)
def test_widths_are_multiples_of_eight_and_are_named_by_what_is_built(width, dim, settled):
    found = FAMILIES["convnext"].settled(dim, (4, 4), {"width": width})["width"]
    assert found == settled
    assert inner_width(found, dim) == inner_width(width, dim)
    assert FAMILIES["convnext"].settled(dim, (4, 4), {"width": found})["width"] == settled


@pytest.mark.parametrize("family", [n for n in FOUND if "norm" in FAMILIES[n].parameters])
def test_norm_puts_another_in_the_place_of_every_norm(family):
    def kinds(norm: str) -> set[str]:
        head = build(family, norm=norm)
        return {
            "batch" if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) else "layer"
            for m in head.modules()
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm)
        }

    assert kinds("batch") == {"batch"}
    if not FAMILIES[family].multiplies:
        assert kinds("none") == set()
    if family != "hybrid":
        assert kinds("layer") == {"layer"}


@pytest.mark.parametrize("family", [n for n in FOUND if "norm" in FAMILIES[n].parameters])
def test_batch_norm_trains_and_is_the_same_each_time(family):
    head = build(family, (5, 7), norm="batch").train()
    map_BDHW = random_map((5, 7))
    first = head(map_BDHW)
    assert first.shape == map_BDHW.shape
    assert torch.equal(first, head(map_BDHW))
    F.mse_loss(first, map_BDHW.flip(0)).backward()
    assert all(w.grad.isfinite().all() for w in head.parameters())
    # Scored with its running means, an image does not see the others.
    head.eval().double()
    map_BDHW = map_BDHW.double()
    torch.testing.assert_close(head(map_BDHW)[:1], head(map_BDHW[:1]), rtol=1e-10, atol=1e-10)


def test_batch_norm_over_tokens_is_batch_norm_over_the_map():
    tokens, maps = nn.Sequential(nn.LayerNorm(6)), nn.Sequential(LayerNorm2d(6))
    renormalised(tokens, "batch")
    renormalised(maps, "batch")
    map_BDHW = random_map((3, 4), 2, 6)
    torch.testing.assert_close(
        tokens(map_BDHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), maps(map_BDHW)
    )


def test_a_dilated_kernel_never_has_taps_off_every_map():
    settled = FAMILIES["dilated"].settled
    assert settled(DIM, (4, 4), {"kernel": 7, "dilation": 2})["kernel"] == 3
    assert settled(DIM, (8, 5), {"kernel": 7, "dilation": 2})["kernel"] == 7
    # A dilation as wide as the map leaves a point-wise kernel, whichever it is.
    found = {str(settled(DIM, (4, 4), {"dilation": dilation})) for dilation in (4, 5, 9)}
    assert len(found) == 1
    map_BDHW = random_map((4, 4), dtype=torch.float64)
    kernel = torch.randn(DIM, 1, 5, 5, dtype=torch.float64)
    wide = F.conv2d(map_BDHW, kernel, padding=4, dilation=2, groups=DIM)
    clipped = F.conv2d(map_BDHW, kernel[..., 1:-1, 1:-1], padding=2, dilation=2, groups=DIM)
    torch.testing.assert_close(wide, clipped, rtol=0, atol=1e-12)


def test_resmlp_begins_with_its_layer_scale_at_one():
    scales = [w for name, w in build("resmlp").named_parameters() if name.endswith(("ls1", "ls2"))]
    assert len(scales) == 6
    assert all((scale == 1).all() for scale in scales)


def test_weights_begin_as_timm_s():
    for family in (
        "attention",
        "swin",
        "xcit",
        "convnext",
        "mambaout",
        "inceptionnext",
        "poolformer",
    ):
        for module in build(family, dim=192, depth=1).modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert module.bias is None or not module.bias.any()
    for module in build("bottleneck", dim=192, depth=1).modules():  # He et al. 2015, fan out
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    gate = build("gmlp", dim=192, depth=1).blocks[0].mlp_channels.gate.proj
    assert (gate.bias == 1).all()
    assert gate.weight.abs().max() < 1e-4


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_a_head_begins_at_a_scale_that_a_norm_can_bring_back(family, parameters):
    """Whatever shortcuts and norms it lacks; the norm behind a head has an epsilon of 1e-5."""
    for gone in ({}, {"shortcuts": False}):
        head = build(family, dim=128, **{**parameters, **gone})
        assert 0.001 < head(random_map((4, 4), dim=128)).std() < 50


def test_identity_returns_the_base_map_and_costs_nothing():
    map_BDHW = random_map((4, 4))
    assert build("identity")(map_BDHW) is map_BDHW
    assert head_cost("identity", 384, (4, 4), {}) == (0, 0)


@pytest.mark.parametrize(
    ("kernel", "grid", "built"), [(7, (4, 4), 7), (9, (4, 4), 7), (9, (4, 5), 9)]
)
@pytest.mark.parametrize("family", ["convnext", "mambaout", "bottleneck"])
def test_a_kernel_is_never_wider_than_it_can_matter(family, kernel, grid, built):
    head = build(family, grid, depth=1, kernel=kernel)
    assert max(m.kernel_size[0] for m in head.modules() if isinstance(m, nn.Conv2d)) == built


def test_a_kernel_that_is_clipped_would_have_computed_the_same():
    """The claim behind the clipping: outside 2·4−1 = 7, a 9×9 kernel on 4×4 meets padding only."""
    map_BDHW = random_map((4, 4), dtype=torch.float64)
    kernel = torch.randn(DIM, 1, 9, 9, dtype=torch.float64)
    wide = F.conv2d(map_BDHW, kernel, padding=4, groups=DIM)
    clipped = F.conv2d(map_BDHW, kernel[..., 1:-1, 1:-1], padding=3, groups=DIM)
    narrower = F.conv2d(map_BDHW, kernel[..., 2:-2, 2:-2], padding=2, groups=DIM)
    torch.testing.assert_close(wide, clipped, rtol=0, atol=1e-12)
    assert not torch.allclose(wide, narrower)


@pytest.mark.parametrize(
    ("dim", "heads"), [(192, 3), (384, 6), (768, 12), (2048, 32), (96, 2), (7, 1)]
)
def test_attention_heads_are_64_wide_where_that_divides(dim, heads):
    assert attention_heads(dim, 64) == heads


def test_cost_is_the_count_by_hand():
    dim, (rows, columns), depth, kernel = 384, (5, 7), 2, 3
    cost = head_cost("convnext", dim, (rows, columns), {"depth": depth, "kernel": kernel})
    weights = kernel**2 * dim + 2 * 4 * dim**2  # depth-wise convolution, two layers of the MLP
    vectors = dim + 2 * dim + 4 * dim + dim  # biases and the norm
    assert cost.params_m == pytest.approx(depth * (weights + vectors) / 1e6, rel=1e-12)
    assert cost.gflops == pytest.approx(depth * 2 * weights * rows * columns / 1e9, rel=1e-12)

    tokens = 16
    cost = head_cost("attention", dim, (4, 4), {"depth": 1})
    multiply_adds = tokens * 12 * dim**2 + 2 * tokens**2 * dim  # linear layers; QKᵀ and AV
    assert cost.gflops == pytest.approx(2 * multiply_adds / 1e9, rel=1e-12)


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
def test_the_count_on_meta_is_that_of_a_real_forward(family, parameters):
    head = build(family, (5, 7), **parameters)
    # PyTorch counts attention and recurrence where they are written out, not in their fused forms
    # on a CPU.
    fused_off = torch.backends.mkldnn.flags(enabled=False)
    with sdpa_kernel(SDPBackend.MATH), fused_off, FlopCounterMode(display=False) as counter:
        head(random_map((5, 7), 1))
    state = torch.get_rng_state()
    cost = head_cost(family, DIM, (5, 7), parameters)
    assert torch.equal(state, torch.get_rng_state()), "counting a cost drew a random number"
    assert cost.gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-12)
    assert cost.params_m == pytest.approx(sum(p.numel() for p in head.parameters()) / 1e6)


@pytest.mark.parametrize(
    ("family", "parameters", "message"),
    [
        ("convnxt", {}, "unknown family 'convnxt'; did you mean 'convnext'"),
        (
            "convnext",
            {"kernal": 3},
            "unknown parameter of convnext 'kernal'; did you mean 'kernel'",
        ),
        ("convnext", {"kernel": 4}, "convnext.kernel must be an odd whole number from 1 to 31"),
        ("convnext", {"kernel": 33}, "but is 33"),
        ("convnext", {"depth": 0}, "convnext.depth must be a whole number from 1 to 24, but is 0"),
        ("convnext", {"depth": True}, "but is True"),
        ("convnext", {"depth": 2.0}, "but is 2.0"),
        ("convnext", {"first_shortcut": 0}, "convnext.first_shortcut must be true or false"),
        ("attention", {"mlp_ratio": float("nan")}, "must be a number from 0.25 to 8, but is nan"),
        ("attention", {"mlp_ratio": "4"}, "but is '4'"),
    ],
)
def test_a_wrong_name_or_value_is_named_with_what_would_be_right(family, parameters, message):
    with pytest.raises(UserError) as caught:
        build_head(family, DIM, (4, 4), parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
