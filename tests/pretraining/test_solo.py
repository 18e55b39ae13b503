"""Solo runs: the same training as in a search, with one head; what is left is the base."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from headsearch.config.presets import quick_lr
from headsearch.config.settings import resolve
from headsearch.data import normalize
from headsearch.errors import UserError
from headsearch.models.network import AttachedHead
from headsearch.models.space import read_name
from headsearch.pretraining import solo
from headsearch.pretraining.head_selection import head_on, name_at
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import (
    OLD_QUICK_LR,
    PretrainingSetup,
    prepare_pretraining,
    settings_like,
)
from headsearch.pretraining.solo import SoloRun, SoloScored
from headsearch.runs.run import Run, read_run
from headsearch.study.search import Search
from headsearch.study.setup import prepare
from helpers.stepwise import stepwise

HEAD = "convnext-d1-k3-noshortcut"
SPACE = """
families:
  convnext: {depth: 1, kernel: 3, first_shortcut: false}
controls: {}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    space = tmp_path_factory.mktemp("space") / "one.yaml"
    space.write_text(SPACE)
    return {
        "base": "test_vit",
        "space": str(space),
        "image_size": 16,
        "patch_size": 4,
        "images": 96,
        "epochs": 2,
        "batch_size": 32,
        "rungs": 2,
        "coupling": "joint",
        "eval_images": 64,
        "bank_images": 64,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
    }


def searched(tiny: dict[str, Any], out: Path, **changes: Any) -> Run:
    search = Search(prepare(resolve({**tiny, "out": out, **changes})))
    search.run()
    return read_run(search.run_directory)


@pytest.fixture(scope="module")
def run(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return searched(tiny, tmp_path_factory.mktemp("runs") / "joint")


@pytest.fixture(scope="module")
def watched(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search whose heads only watched the base."""
    out = tmp_path_factory.mktemp("runs") / "observe"
    return searched(tiny, out, coupling="observe")


def scored(planned: PretrainingSetup) -> list[SoloScored]:
    events = stepwise(SoloRun(planned.setup, planned.candidate).run)
    return [event for event in events if isinstance(event, SoloScored)]


def test_a_solo_run_is_the_search_of_one_head(run: Run) -> None:
    """Base, first weights, images, order and losses are the same, so all scores are."""
    rungs = scored(prepare_pretraining({}, run=run))
    assert [s.step for s in rungs] == list(run.rungs["step"])
    expected = run.rungs
    assert [s.scores.base.report.knn for s in rungs] == pytest.approx(list(expected["base_knn"]))
    heads = [s.scores.heads[HEAD] for s in rungs]
    assert [h.report.linear for h in heads] == pytest.approx(list(expected["head_linear"]))
    assert [h.discrepancy.value for h in heads] == pytest.approx(
        list(expected["discrepancy"]), rel=1e-4
    )


def test_without_a_head_the_base_trains_as_beside_heads_that_only_watch(
    watched: Run,
) -> None:
    rungs = scored(prepare_pretraining({}, run=watched, head="none"))
    found = [(s.scores.base.report.knn, s.scores.base.report.linear) for s in rungs]
    expected = watched.rungs[["base_knn", "base_linear"]].to_numpy()
    assert found == [pytest.approx(list(row)) for row in expected]


def test_a_head_shapes_the_base_even_where_the_search_only_let_it_watch(
    watched: Run,
) -> None:
    with_head, without = (
        scored(prepare_pretraining({}, run=watched, head=head))[-1].base for head in (HEAD, "none")
    )
    assert any(
        not torch.equal(a, b)
        for a, b in zip(with_head.parameters(), without.parameters(), strict=True)
    )


@pytest.fixture(scope="module")
def pretrained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretraining, Any]:
    """A pretraining, and the features of its base on 8 images."""
    out = tmp_path_factory.mktemp("pretrained") / "first"
    pretraining = Pretraining(prepare_pretraining({"out": str(out)}, run=run, rank=1))
    for event in stepwise(pretraining.run):
        if isinstance(event, SoloScored):
            last = event
    with torch.no_grad():
        features = last.base(images(pretraining)).pooled_BD
    return pretraining, features


def images(pretraining: Pretraining) -> torch.Tensor:
    return normalize(pretraining.setup.data.queries.batch(torch.arange(8)))


def test_timm_loads_the_weights_and_gives_the_features_of_the_trained_base(
    pretrained: tuple[Pretraining, Any],
) -> None:
    pretraining, features = pretrained
    arguments = pretraining.setup.plan.arguments
    assert pretraining.loading == (
        f"timm.create_model('test_vit', num_classes=0, img_size=16, patch_size=4, "
        f"checkpoint_path={str(pretraining.weights)!r}, pretrained_cfg_overlay="
        "{'input_size': (3, 16, 16), 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)})"
    )
    model = timm.create_model(
        "test_vit", num_classes=0, checkpoint_path=str(pretraining.weights), **arguments
    ).eval()
    loaded = eval(pretraining.loading, {"timm": timm}).eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with torch.no_grad():
        torch.testing.assert_close(model(images(pretraining)), features)


def test_the_head_is_kept_with_its_norm_and_gives_its_tokens_again(
    pretrained: tuple[Pretraining, Any],
) -> None:
    pretraining, _ = pretrained
    candidate, plan = pretraining.planned.candidate, pretraining.setup.plan
    assert candidate is not None
    state = load_file(pretraining.run_directory / "head.safetensors")
    again = AttachedHead(candidate.build(plan.dim, plan.grid), plan.dim, torch.nn.Identity())
    again.load_state_dict(state, strict=True)
    map_BDHW = torch.randn(2, plan.dim, *plan.grid)
    trained = pretraining._solo._trainer.teacher.network.heads[candidate.name]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(map_BDHW), trained.eval()(map_BDHW))


def test_the_directory_says_what_was_done_and_what_it_came_to(
    pretrained: tuple[Pretraining, Any],
) -> None:
    pretraining, _ = pretrained
    config = yaml.safe_load((pretraining.run_directory / "config.yaml").read_text())
    assert config["solo_head"]["families"]["convnext"]["first_shortcut"] is False
    assert config["epochs"] == 2
    assert not {"space", "trials", "pruner"} & set(config)
    table = pd.read_csv(pretraining.run_directory / "pretrain.csv")
    assert list(table["rung"]) == [0, 1, 2]
    assert table[["base_knn", "base_linear", "effective_rank"]].notna().all(axis=None)
    with pytest.raises(UserError, match="a pretraining with one head, not a search"):
        read_run(pretraining.run_directory)


def test_nothing_is_overwritten(pretrained: tuple[Pretraining, Any], run: Run) -> None:
    out = str(pretrained[0].run_directory)
    with pytest.raises(UserError, match="exists already"):
        prepare_pretraining({"out": out}, run=run)


def test_stopping_early_keeps_the_weights_of_the_last_rung(run: Run, tmp_path: Path) -> None:
    pretraining = Pretraining(prepare_pretraining({"out": str(tmp_path / "p")}, run=run))
    events = stepwise(pretraining.run)
    for event in events:
        assert event.step == 0 or event.step <= 3
        if isinstance(event, SoloScored) and event.rung == 1:
            break
    events.close()
    assert list(pretraining.scores["rung"]) == [0, 1]
    timm.create_model("test_vit", num_classes=0, img_size=16, patch_size=4,
                      checkpoint_path=str(pretraining.weights))  # fmt: skip


def test_settings_of_the_run_give_way_to_flags_and_a_budget_brings_its_own(run: Run) -> None:
    flags = {"epochs": "1", "lr": "0.001"}
    config = prepare_pretraining(flags, run=run).setup.config
    assert (config.epochs, config.lr, config.batch_size, config.seed) == (1, 0.001, 32, 0)
    standard = settings_like(run, {"budget": "standard", "rungs": "3"})
    assert (standard.images, standard.epochs, standard.rungs) == (20_000, 8, 3)


@pytest.mark.parametrize(
    ("own", "then"), [(quick_lr(64), 5e-4), (OLD_QUICK_LR, 5e-4), (1e-3, 1e-3)]
)
def test_a_budget_brings_its_learning_rate_where_the_run_had_that_of_its_own(
    own: float, then: float, run: Run, tmp_path: Path
) -> None:
    """Not where it was chosen for the base."""
    config = {**run.config, "lr": own}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    other = replace(run, path=tmp_path, config=config)
    assert settings_like(other, {"budget": "standard"}).lr == then


def test_a_base_whose_learning_rate_was_lowered_is_pretrained_at_that(run: Run) -> None:
    lowered = replace(run, facts={**run.facts, "lowered": [{"lr": 3e-4}, {"lr": 1.5e-4}]})
    assert settings_like(lowered, {}).lr == 1.5e-4
    assert settings_like(lowered, {"lr": "0.001"}).lr == 0.001


def test_a_recipe_brings_its_own_settings_but_not_its_base(run: Run) -> None:
    config = settings_like(run, {"recipe": "hssl-vit-b", "epochs": "7"})
    assert (config.base, config.objective, config.epochs) == ("test_vit", "ibot", 7)
    assert config.batch_size == 256
    assert config.lr == pytest.approx(0.00075)
    assert settings_like(run, {"recipe": "hssl-vit-b", "batch_size": "128"}).lr == pytest.approx(
        0.000375
    )
    assert settings_like(run, {"recipe": "hssl-vit-b", "lr": "0.001"}).lr == 0.001


def test_what_only_a_search_has_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="--coupling does not apply"):
        prepare_pretraining({"coupling": "observe"}, run=run)


def test_another_length_of_training_is_another_result(run: Run) -> None:
    longer = scored(prepare_pretraining({"epochs": "3"}, run=run))
    assert longer[-1].step == 9


@pytest.mark.parametrize(
    ("name", "family", "parameters"),
    [
        (HEAD, "convnext", {"depth": 1, "kernel": 3, "first_shortcut": False}),
        ("convnext", "convnext", {}),
        ("mixer-d2-m2-t0.25", "mixer", {"depth": 2, "mlp_ratio": 2.0, "token_ratio": 0.25}),
        ("own-d2", "own", {"depth": 2}),
        ("identity", "identity", {}),
    ],
)
def test_a_name_says_its_parameters(name: str, family: str, parameters: dict[str, Any]) -> None:
    assert read_name(name) == (family, parameters)


def test_every_candidate_of_a_space_is_found_by_its_name() -> None:
    from headsearch.models.bases import plan_base
    from headsearch.models.space import find_space, load_space

    plan = plan_base("test_vit", 32, patch_size=4)
    listing = load_space(find_space("heads.yaml")).on(plan).enumerate(500)
    assert listing is not None
    for candidate in listing.candidates:
        found = head_on(plan, candidate.name)
        assert found.candidate == candidate
        assert not found.notes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("convnxt-d1", "did you mean 'convnext-d3-k7'"),
        ("convnext-k3-d1", "unknown head 'convnext-k3-d1'"),
        ("convnext-d1-k4", "convnext.kernel must be an odd whole number"),
        ("mixer-d1-t1.2.3", "no number"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_an_unknown_head_is_told_in_one_line(spec: str, words: str, run: Run) -> None:
    from headsearch.models.bases import plan_base

    with pytest.raises(UserError, match=re.escape(words)) as error:
        head_on(plan_base("test_vit", 16, patch_size=4), spec)
    assert "\n" not in str(error.value)


def test_a_head_that_does_not_fit_the_base_is_told() -> None:
    from headsearch.models.bases import plan_base

    plan = plan_base("regnetx_002", 64)
    assert plan.own_family is None
    with pytest.raises(UserError, match="no family is built like this base"):
        head_on(plan, "own-d2")


def test_a_place_that_the_base_has_not_is_told() -> None:
    from headsearch.models.bases import plan_base

    plan = plan_base("test_vit", 16, patch_size=4)
    with pytest.raises(UserError, match="can be attached to at 0 to"):
        head_on(plan, "mixer-d1-before60")


def test_ranks_are_those_of_the_ranking(tmp_path: Path) -> None:
    from helpers.synthetic_runs import run as made_up

    found = made_up(tmp_path, states={"mixer-d2-r4": ("collapsed", 2, "effective rank 3")})
    best = found.ranking.iloc[0]
    assert name_at(found, 1)[0] == best["candidate"]
    ranks = found.ranking.set_index("candidate")["rank"]
    _, note = name_at(found, int(ranks["own-d2"]))
    assert note is not None
    assert "is a control" in note
    with pytest.raises(UserError, match=r"mixer-d2-r4, collapsed \(effective rank 3\)"):
        name_at(found, int(ranks["mixer-d2-r4"]))
    with pytest.raises(UserError, match="no rank 99: its ranks are 1 to 12"):
        name_at(found, 99)
    with pytest.raises(UserError, match="no ranking yet"):
        name_at(made_up(tmp_path, last=-1), 1)


def test_what_diverges_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    attach = solo.attach

    def broken(trainer: Any, setup: Any, candidate: Any) -> None:
        attach(trainer, setup, candidate)
        next(trainer.student.heads[candidate.name].parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(solo, "attach", broken)
    with pytest.raises(UserError, match=f"the head {HEAD} diverged.*lower --lr"):
        scored(prepare_pretraining({}, run=run))


def test_a_head_of_an_earlier_map_is_attached_there() -> None:
    from headsearch.pretraining.setup import prepare_pretraining
    from headsearch.training.setup import attach

    flags = {"base": "test_convnext", "images": 64, "epochs": 1, "batch_size": 32, "rungs": 1,
             "image_size": 64, "eval_images": 64, "bank_images": 64, "device": "cpu"}  # fmt: skip
    planned = prepare_pretraining(flags, head="convnext-d1-k3-before1")
    trainer = planned.setup.new_trainer("joint")
    assert planned.candidate is not None
    attach(trainer, planned.setup, planned.candidate)
    (head,) = trainer.student.heads.values()
    assert planned.setup.plan.stages[1].dim != planned.setup.plan.dim
    assert head.feature_index == 1
    assert head.norm.normalized_shape == (planned.setup.plan.stages[1].dim,)
