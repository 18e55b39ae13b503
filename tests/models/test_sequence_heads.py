"""Heads on sequences: kernels along the row, padding that has no effect, causal forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from headsearch.errors import UserError
from headsearch.models.bases import BaseOutput
from headsearch.models.head_batches import HeadBatches
from headsearch.models.heads import FAMILIES, build_head, fit_to_map, head_cost
from headsearch.models.heads.padding import masked_mean, run_head
from headsearch.models.heads.recurrent import Recurrence
from headsearch.models.heads.state_space import StateSpace
from headsearch.models.network import AttachedHead, Network, tokens_of

DIM, LENGTH = 48, 12
LENGTHS = torch.tensor([5, LENGTH, 8])
FOUND = [name for name, family in FAMILIES.items() if not family.control]
CAUSAL = [name for name in FOUND if "causal" in FAMILIES[name].parameters]
ONE_LENGTH = {"swin", "gfnet", "mixer", "resmlp", "gmlp"}
ANY_LENGTH = [name for name in FOUND if name not in ONE_LENGTH]
VARIANTS = [
    (name, {**norm, **causal})
    for name in ANY_LENGTH
    for norm in ({}, {"norm": "batch"})
    for causal in ({}, {"causal": True})
    if not causal or name in CAUSAL
]


def build(family: str, length: int = LENGTH, **parameters) -> nn.Module:
    torch.manual_seed(0)
    depth = 1 if family == "hybrid" else 2
    return build_head(family, DIM, (1, length), {"depth": depth, **parameters})


def row(length: int = LENGTH, batch: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, DIM, 1, length, generator=generator, dtype=dtype)


def valid_of(lengths: Tensor, width: int = LENGTH, first: int = 0) -> Tensor:
    """(B, 1, W): True at the places `first` to `first` + length − 1."""
    places = torch.arange(width)
    return ((places >= first) & (places < first + lengths[:, None]))[:, None]


def test_the_families_that_fit_one_length_say_so():
    def says(name: str) -> bool:
        return FAMILIES[name].one_length(FAMILIES[name].settled(DIM, (1, LENGTH), {}))

    assert {name for name in FOUND if says(name)} == ONE_LENGTH
    hybrid = FAMILIES["hybrid"]
    assert hybrid.one_length(hybrid.settled(DIM, (1, LENGTH), {"far": "mixer"}))
    assert hybrid.one_length(hybrid.settled(DIM, (1, LENGTH), {"near": "swin"}))


@pytest.mark.parametrize("family", FOUND)
def test_every_family_works_on_a_sequence(family):
    head = build(family)
    row_BDHW = row().requires_grad_()
    out_BDHW = head(row_BDHW)
    assert out_BDHW.shape == row_BDHW.shape
    out_BDHW.square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in head.parameters())
    assert (row_BDHW.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize("family", FOUND)
def test_no_kernel_is_higher_than_the_row(family):
    for causal in (False, True)[: 1 + (family in CAUSAL)]:
        head = build(family, **({"causal": True} if causal else {}))
        kernels = [m.kernel_size for m in head.modules() if isinstance(m, nn.Conv2d)]
        assert all(rows == 1 for rows, _ in kernels)


@pytest.mark.parametrize("family", ["bottleneck", "dilated"])
def test_a_kernel_along_the_row_costs_what_it_computes(family):
    wide = head_cost(family, 64, (1, 40), {"depth": 1, "kernel": 7})
    narrow = head_cost(family, 64, (1, 40), {"depth": 1, "kernel": 1})
    assert wide.params_m - narrow.params_m == pytest.approx(6 * 16**2 / 1e6)


@pytest.mark.parametrize(("family", "parameters"), VARIANTS, ids=str)
def test_padding_has_no_effect(family, parameters):
    """Neither what it holds, nor how much of it there is, nor at which end it lies."""
    head, row_BDHW = build(family, **parameters).eval(), row()
    if "norm" in parameters:  # before training, batch norm lets values grow, and so their rounding
        head, row_BDHW = head.double(), row_BDHW.double()
    with torch.no_grad():
        expected = [
            head(row_BDHW[index : index + 1, ..., :length])[0]
            for index, length in enumerate(LENGTHS)
        ]
        for first, width in ((0, LENGTH), (0, LENGTH + 7), (4, LENGTH + 4)):
            valid_BHW = valid_of(LENGTHS, width, first)
            padded = row_BDHW.new_full((3, DIM, 1, width), torch.nan)
            padded[..., first : first + LENGTH] = row_BDHW
            padded = padded.masked_fill(~valid_BHW.unsqueeze(1), torch.nan)
            out_BDHW = run_head(head, padded, valid_BHW)
            assert not out_BDHW.masked_fill(valid_BHW.unsqueeze(1), 0).any()
            for index, length in enumerate(LENGTHS):
                found = out_BDHW[index, ..., first : first + length]
                torch.testing.assert_close(found, expected[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", sorted(ONE_LENGTH))
def test_what_padding_holds_has_no_effect_on_families_of_one_length(family):
    head, valid_BHW = build(family), valid_of(LENGTHS)
    empty = row().where(valid_BHW.unsqueeze(1), torch.tensor(0.0))
    filled = row().where(valid_BHW.unsqueeze(1), torch.tensor(torch.nan))
    assert torch.equal(run_head(head, filled, valid_BHW), run_head(head, empty, valid_BHW))


@pytest.mark.parametrize("family", ANY_LENGTH)
def test_padding_sends_no_gradient_and_a_map_without_data_does_no_harm(family):
    head = build(family)
    row_BDHW = row().requires_grad_()
    valid_BHW = valid_of(torch.tensor([5, 0, LENGTH]))
    out_BDHW = run_head(head, row_BDHW, valid_BHW)
    assert out_BDHW.isfinite().all()
    masked_mean(out_BDHW.flatten(2).transpose(1, 2), valid_BHW).square().sum().backward()
    seen_BHW = row_BDHW.grad.abs().sum(1) > 0
    assert torch.equal(seen_BHW, valid_BHW)
    assert all(weight.grad.isfinite().all() for weight in head.parameters())


@pytest.mark.parametrize("family", ANY_LENGTH)
def test_a_head_is_as_it_was_after_a_pass_with_padding(family):
    head = build(family)
    before = head(row())
    run_head(head, row(), valid_of(LENGTHS))
    assert torch.equal(head(row()), before)
    copied = copy.deepcopy(head)
    assert torch.equal(
        run_head(copied, row(), valid_of(LENGTHS)), run_head(head, row(), valid_of(LENGTHS))
    )


@pytest.mark.parametrize("family", [n for n in ANY_LENGTH if "norm" in FAMILIES[n].parameters])
def test_statistics_of_batch_norm_leave_padding_out(family):
    """One sequence, with and without padding: outputs and running means are the same."""
    plain = build(family, norm="batch").train()
    padded = copy.deepcopy(plain)
    lengths, row_BDHW = torch.tensor([8, 8, 8]), row(8)
    expected = plain(row_BDHW)
    wider = torch.cat([row_BDHW, row(4)], dim=3)
    found = run_head(padded, wider, valid_of(lengths))[..., :8]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(padded.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def test_maps_of_several_rows_may_have_padding_too():
    """Spectrograms of clips of different lengths: whole columns are padding."""
    for family in ("attention", "convnext", "mbconv", "poolformer", "focalnet", "lstm", "xcit"):
        torch.manual_seed(0)
        head = build_head(family, DIM, (3, 5), {"depth": 2})
        map_BDHW = torch.randn(2, DIM, 3, 5)
        valid_BHW = torch.arange(5).expand(2, 3, 5) < 4
        changed = map_BDHW.where(valid_BHW.unsqueeze(1), torch.tensor(9.0))
        outs = [run_head(head, maps, valid_BHW)[..., :4] for maps in (map_BDHW, changed)]
        assert torch.equal(*outs)
        if family != "xcit":  # which knows the rows of a map, not its columns
            small = build_head(family, DIM, (3, 4), {"depth": 2})
            small.load_state_dict(head.state_dict())
            torch.testing.assert_close(small(map_BDHW[..., :4]), outs[0], rtol=0, atol=1e-5)


def test_a_convolution_computed_as_a_matrix_product_leaves_padding_out():
    head = fit_to_map(build_head("convnext", DIM, (1, 4), {"depth": 2, "kernel": 7}), (1, 4))
    assert any(type(module).__name__ == "DepthwiseOnSmallMap" for module in head.modules())
    valid_BHW = valid_of(torch.tensor([3, 4, 2]), 4)
    changed = row(4).where(valid_BHW.unsqueeze(1), torch.tensor(torch.nan))
    kept = valid_BHW.unsqueeze(1).expand_as(changed)
    outs = [run_head(head, maps, valid_BHW)[kept] for maps in (row(4), changed)]
    assert torch.equal(*outs)


def test_a_masked_mean_is_the_mean_of_what_holds_data():
    tokens_BND = row().flatten(2).transpose(1, 2).clone()
    expected = torch.stack([tokens_BND[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    valid_BHW = valid_of(LENGTHS)
    tokens_BND[~valid_BHW.flatten(1)] = torch.nan
    torch.testing.assert_close(masked_mean(tokens_BND, valid_BHW), expected)
    assert not masked_mean(tokens_BND, torch.zeros_like(valid_BHW)).any()
    assert torch.equal(masked_mean(expected[None], None), expected[None].mean(dim=1))


class PaddedBase(nn.Module):
    """Gives the same two maps for whatever it is asked, with padding behind the data."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.finer = row(6, 4), row(12, 4)
        self.valid = valid_of(torch.tensor([2, 6, 3, 5]), 6)

    def forward(self, images, mask=None, feature_indices=(0,)) -> BaseOutput:
        maps = {0: self.last, 1: self.finer}
        tokens_BND = tokens_of(self.last)
        pooled_BD = masked_mean(tokens_BND, self.valid)
        return BaseOutput({i: maps[i] for i in feature_indices}, tokens_BND, pooled_BD, self.valid)


def test_a_network_hands_the_mask_to_its_heads_and_to_their_means():
    """On the last map and on a finer one, for all maps and for the share that a head sees."""
    network = Network(PaddedBase(), nn.Identity(), "observe")
    for name, index in (("convnext", 0), ("lstm", 1)):
        head = build(name, (6, 12)[index])
        network.attach(name, AttachedHead(head, DIM, nn.Identity(), index))
    images = torch.zeros(4)
    rows = {name: torch.tensor(seen) for name, seen in (("convnext", [1, 3]), ("lstm", [0, 2]))}
    whole, shared = network(images), network(images, shares=HeadBatches(rows))
    for name, attached in network.heads.items():
        scale = 1 + attached.feature_index
        map_BDHW = (network.base.last, network.base.finer)[attached.feature_index]
        for index, length in enumerate((2, 6, 3, 5)):
            alone = attached(map_BDHW[index : index + 1, ..., : length * scale]).mean(dim=1)[0]
            torch.testing.assert_close(whole.pooled_BD(name)[index], alone, rtol=0, atol=1e-5)
            if index in rows[name]:
                found = shared.pooled_BD(name)[rows[name].tolist().index(index)]
                torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_an_image_base_gives_no_mask_and_its_heads_are_pooled_as_ever():
    network = Network(PaddedBase(), nn.Identity(), "observe")
    network.base.valid = None
    network.base.forward = lambda *_, **__: BaseOutput({0: row(6)}, row(6), row(6))
    network.attach("lstm", AttachedHead(build("lstm", 6), DIM, nn.Identity()))
    features = network(torch.zeros(3))
    assert torch.equal(features.pooled_BD("lstm"), features.heads_BND["lstm"].mean(dim=1))


# --- Causal forms ---------------------------------------------------------------------------------


def test_which_families_have_a_causal_form():
    assert set(FOUND) - set(CAUSAL) == {*ONE_LENGTH, "xcit"}


@pytest.mark.parametrize("norm", ["own", "none", "layer"])
@pytest.mark.parametrize("family", CAUSAL)
def test_an_output_does_not_depend_on_later_tokens(family, norm):
    if norm == "none" and FAMILIES[family].multiplies:
        pytest.skip("needs a norm")
    head = build(family, norm=norm, causal=True).double()
    row_BDHW = row(dtype=torch.float64)
    changed = row_BDHW.clone()
    changed[..., 7:] += 1
    with torch.no_grad():
        before, after = head(row_BDHW), head(changed)
        torch.testing.assert_close(after[..., :7], before[..., :7], rtol=0, atol=1e-10)
        assert not torch.allclose(after[..., 7], before[..., 7])
        # Nor with padding at the other end, where a causal base of text may have it.
        valid_BHW = valid_of(torch.tensor([LENGTH - 2] * 3), first=2)
        padded = [run_head(head, maps, valid_BHW) for maps in (row_BDHW, changed)]
    torch.testing.assert_close(padded[0][..., 2:7], padded[1][..., 2:7], rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", CAUSAL)
def test_an_output_of_a_causal_head_depends_on_earlier_tokens(family):
    head = build(family, causal=True)
    row_BDHW = row().requires_grad_()
    head(row_BDHW)[..., 7].square().sum().backward()
    seen = row_BDHW.grad.abs().sum((0, 1, 2)) > 0
    assert seen[7]
    assert seen[:7].any()


def test_a_causal_form_is_for_sequences_and_is_named():
    with pytest.raises(
        UserError, match=r"lstm.causal is for sequences, .* but this map has 4 rows"
    ):
        build_head("lstm", DIM, (4, 4), {"causal": True})
    with pytest.raises(UserError, match=r"hybrid.causal: mixer has no causal form"):
        build_head("hybrid", DIM, (1, LENGTH), {"causal": True, "far": "mixer"})
    with pytest.raises(UserError, match="unknown parameter of xcit 'causal'"):
        build_head("xcit", DIM, (1, LENGTH), {"causal": True})
    settled = FAMILIES["bottleneck"].settled(DIM, (1, LENGTH), {"causal": True, "norm": "layer"})
    assert settled["norm"] == "own"  # a causal form has layer norms


# --- New mixers, held against their formulas ------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_the_state_space_by_fft_is_the_recurrence(causal):
    """x ← exp(ΔA)·x + (exp(ΔA) − 1)/A · u, y = 2·Re(C·x) + S·u, token by token in float64."""
    torch.manual_seed(0)
    mixer = StateSpace(6, 8, causal).double()
    # All tokens, and those of a sequence with padding.
    tokens_BND = torch.randn(2, 9, 6, dtype=torch.float64)
    step = mixer.log_step.exp()[:, None]
    poles = torch.complex(-mixer.log_decay.exp(), mixer.frequency).view(6, 4)
    factor, gain = (step * poles).exp(), ((step * poles).exp() - 1) / poles

    def scan(inputs_BND: Tensor, readout: Tensor) -> Tensor:
        state = torch.zeros(2, 6, 4, dtype=torch.complex128)
        outputs = []
        for inputs_BD in inputs_BND.unbind(1):
            state = factor * state + gain * inputs_BD[..., None]
            outputs.append(2 * (torch.view_as_complex(readout) * state).sum(-1).real)
        return torch.stack(outputs, dim=1)

    expected = scan(tokens_BND, mixer.readout[0]) + mixer.skip * tokens_BND
    if not causal:
        expected = expected + scan(tokens_BND.flip(1), mixer.readout[1]).flip(1)
    expected = mixer.proj(nn.functional.gelu(expected))
    torch.testing.assert_close(mixer(tokens_BND), expected, rtol=0, atol=1e-10)


def test_the_state_space_begins_as_published():
    mixer = StateSpace(64, 32, causal=True)
    assert (mixer.log_decay.exp() == 0.5).all()
    assert torch.equal(mixer.frequency.view(64, 16)[3], torch.pi * torch.arange(16.0))
    steps = mixer.log_step.exp()
    assert 0.001 <= steps.min() < 0.01 < steps.max() <= 0.1
    # Weight decay, which leaves out parameters of one axis, must not move its poles.
    assert {n for n, p in mixer.named_parameters() if p.ndim > 1} == {"readout", "proj.weight"}


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_a_recurrence_is_pytorch_s_bidirectional_layer(layer):
    torch.manual_seed(0)
    mixer = Recurrence(12, layer, causal=False)
    both = layer(12, 6, batch_first=True, bidirectional=True)
    both.load_state_dict(
        {
            **mixer.onward.state_dict(),
            **{f"{name}_reverse": w for name, w in mixer.backward.state_dict().items()},
        }
    )
    tokens_BND, lengths = torch.randn(3, 7, 12), torch.tensor([7, 3, 5])
    torch.testing.assert_close(mixer(tokens_BND), mixer.proj(both(tokens_BND)[0]))
    packed = nn.utils.rnn.pack_padded_sequence(
        tokens_BND, lengths, batch_first=True, enforce_sorted=False
    )
    expected, _ = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    mixer.valid_BHW = valid_of(lengths, 7)
    found = mixer(tokens_BND)
    for index, length in enumerate(lengths):
        torch.testing.assert_close(found[index, :length], mixer.proj(expected)[index, :length])


def test_a_map_is_read_row_by_row():
    """A causal reading of a map of several rows would be refused; its order is that of tokens."""
    mixer = Recurrence(DIM, nn.GRU, causal=True)
    head = build_head("gru", DIM, (2, 3), {"depth": 1})
    head.blocks[0].attn = mixer
    map_BDHW = torch.randn(1, DIM, 2, 3).requires_grad_()
    head(map_BDHW)[0, :, 1, 0].square().sum().backward()
    seen = (map_BDHW.grad.abs().sum((0, 1)) > 0).tolist()
    assert seen == [[True, True, True], [True, False, False]]
