"""What every family of heads promises, and how the blocks are held together."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headsearch.errors import UserError
from headsearch.heads import FAMILIES, build_head, head_cost
from headsearch.heads.attention import attention_heads
from headsearch.heads.layout import ChannelsLastBlocks, TokenBlocks

DIM = 48
GRIDS = [(4, 4), (5, 7), (8, 8)]
FOUND = [name for name, family in FAMILIES.items() if not family.control]
OPENED = [name for name in FOUND if "first_shortcut" in FAMILIES[name].parameters]
# Every family as it is and, where it has the switch, without its first shortcut.
VARIANTS = [(name, {}) for name in FOUND] + [(name, {"first_shortcut": False}) for name in OPENED]
IDS = [f"{name}{'-noshortcut' if p else ''}" for name, p in VARIANTS]


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


def test_there_are_eight_families_of_different_bias():
    assert len({FAMILIES[name].bias for name in FOUND}) >= 8


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
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
@pytest.mark.parametrize("grid", GRIDS, ids=str)
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
}


@pytest.mark.parametrize("family", LOCAL)
def test_a_kernel_reaches_as_far_as_its_side(family):
    parameters, reached = LOCAL[family]
    grid, cell = (5, 7), (1, 5)
    head = build(family, grid, depth=1, **parameters).double()
    if family == "bottleneck":  # group norm lets all of a map know its scale: hold it still
        for module in head.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = torch.relu
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


ONE_RESIDUAL = {"convnext", "bottleneck", "gmlp"}


@pytest.mark.parametrize("family", OPENED)
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


@pytest.mark.parametrize("family", OPENED)
def test_only_the_first_shortcut_is_dropped(family):
    """After the first block, the head without its shortcut is the head with it."""

    def blocks(head: nn.Module) -> nn.Sequential:
        return head if isinstance(head, nn.Sequential) else head.blocks

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


def test_resmlp_begins_with_its_layer_scale_at_one():
    scales = [w for name, w in build("resmlp").named_parameters() if name.endswith(("ls1", "ls2"))]
    assert len(scales) == 6
    assert all((scale == 1).all() for scale in scales)


def test_weights_begin_as_timm_s():
    for family in ("attention", "swin", "convnext", "mambaout", "poolformer"):
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
    # PyTorch counts attention where it is written out, not in its fused form on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
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
