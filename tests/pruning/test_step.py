import copy

import pytest
import torch
from torch import nn

from attar import forms
from attar.errors import AttarError
from attar.pruning import GradualPruning, iterative, one_shot, prune_weights

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.05, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def run(model, step, *, total=40, until=None, optimizer=None, begin=0, watch=lambda model, i: None):
    optimizer = optimizer or OPTIMIZERS["sgd"](model.parameters())
    for i in range(begin, total if until is None else until):
        step.before_forward(model, i, total)
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(i)
        model(torch.randn(8, 1, 4, 4, generator=generator)).square().mean().backward()
        step.after_backward(model, i, total)
        optimizer.step()
        step.after_update(model, i, total)
        watch(model, i)
    return optimizer


def weights(model):
    return {str(i): model[i].weight.detach() for i in (0, 3, 5)}


def share(masks):
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_removed_is_exactly_zero_and_stays_so(optimizer):
    """METHODS 0.5, with momentum and weight decay."""
    model, step = network(), GradualPruning(0.2, every=5)
    before = {"0": 1, "3": 1, "5": 1}
    shares = []

    def watch(model, i):
        nonlocal before
        for name, weight in weights(model).items():
            assert not bool(weight[~step.masks[name]].any())
            assert not bool((step.masks[name] & ~torch.as_tensor(before[name]).bool()).any())  # nothing comes back
        before = {name: mask.clone() for name, mask in step.masks.items()}
        shares.append(share(step.masks))

    run(model, step, optimizer=OPTIMIZERS[optimizer](model.parameters()), watch=watch)
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 4
    assert shares[-1] == pytest.approx(0.2, abs=1 / 180)


def test_the_gradient_of_what_is_removed_never_reaches_the_momentum():
    model, step = network(), GradualPruning(0.2, schedule=one_shot())
    optimizer = run(model, step, total=5, optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    for i in (0, 3, 5):
        assert not bool(optimizer.state[model[i].weight]["momentum_buffer"][~step.masks[str(i)]].any())


def test_the_first_decision_is_that_of_prune_weights():
    model, twin = network(), network()
    step = GradualPruning({"0": 0.5, "[35]": 0.1}, schedule="one_shot", saliency="random", seed=3)
    step.before_forward(model, 0, 10)
    expected = prune_weights(twin, keep={"0": 0.5, "[35]": 0.1}, saliency="random", seed=3)
    assert all(torch.equal(step.masks[name], expected[name]) for name in expected)
    assert all(torch.equal(weights(model)[name], weights(twin)[name]) for name in expected)


@pytest.mark.parametrize("total", [1, 2, 7, 10, 11, 40])
@pytest.mark.parametrize("schedule", ["one_shot", "cubic", iterative(30)])
def test_the_target_is_reached_however_few_the_steps(total, schedule):
    model, step = network(), GradualPruning(0.25, allocation="layer", schedule=schedule)
    run(model, step, total=total)
    assert [int(mask.sum()) for mask in step.masks.values()] == [9, 32, 4]


def test_masks_are_chosen_where_the_schedule_has_moved_only():
    model, step = network(), GradualPruning(0.25, schedule=iterative(2), every=4)
    chosen = []

    def watch(model, i):
        if not chosen or any(not torch.equal(mask, chosen[-1][1][name]) for name, mask in step.masks.items()):
            chosen.append((i, dict(step.masks)))

    run(model, step, total=21, watch=watch)
    assert [i for i, _ in chosen] == [0, 12]  # round two begins at step 10; 12 is the next multiple of four
    assert [share(masks) for _, masks in chosen] == [0.5, 0.25]


def test_finish_attaches_sparse_forms():
    model, step = network(), GradualPruning(0.25)
    run(model, step)
    before = {name: weight.clone() for name, weight in weights(model).items()}
    step.finish(model)
    for name, weight in weights(model).items():
        form = forms.of(model[int(name)], "weight")
        assert isinstance(form, forms.Sparse)
        assert torch.equal(form.mask, step.masks[name])
        assert torch.equal(weight, before[name])


def test_finish_takes_all_holders_of_a_tied_weight():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    step = GradualPruning(0.5, schedule=one_shot())
    step.before_forward(model, 0, 1)
    step.finish(model)
    assert forms.of(model[0], "weight") is forms.of(model[2], "weight") is not None


def test_an_embedding_that_is_named_is_pruned_to_the_end():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    step = GradualPruning({"*": 0.5}, schedule=one_shot())
    step.before_forward(model, 0, 1)
    step.finish(model)
    assert isinstance(forms.of(model[0], "weight"), forms.Sparse)


@pytest.mark.parametrize("until", [1, 7, 13, 20, 33])
def test_a_resumed_run_ends_the_same(until):
    model, step = network(), GradualPruning(0.2, every=6)
    run(model, step)
    broken, first = network(), GradualPruning(0.2, every=6)
    optimizer = run(broken, first, until=until)
    resumed, second = network(seed=1), GradualPruning(0.2, every=6)
    resumed.load_state_dict(broken.state_dict())
    state = copy.deepcopy(first.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    second.load_state_dict(state)
    fresh = OPTIMIZERS["sgd"](resumed.parameters())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(resumed, second, begin=until, optimizer=fresh)
    assert all(torch.equal(weight, weights(model)[name]) for name, weight in weights(resumed).items())
    assert all(torch.equal(mask, step.masks[name]) for name, mask in second.masks.items())


def test_start_makes_sparse_weights_plain_and_what_they_removed_stays_removed():
    model = network()
    model.append(nn.Linear(8, 2))
    model[6].weight = model[5].weight = nn.Parameter(torch.randn(2, 8))
    masks = prune_weights(model, keep=0.5)
    before = {name: weight.clone() for name, weight in weights(model).items()}
    step = GradualPruning(0.2, every=3)
    step.start(model)
    assert not any(forms.names(layer) for layer in model.modules())
    assert model[5].weight is model[6].weight
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())
    model.pop(6)
    run(model, step)
    assert not any(bool((step.masks[name] & ~masks[name]).any()) for name in masks)
    assert not any(bool(weight[~masks[name]].any()) for name, weight in weights(model).items())


def test_start_after_loading_forgets_nothing():
    model, step = network(), GradualPruning(0.2, schedule=one_shot())
    run(model, step, until=3)
    resumed = GradualPruning(0.2, schedule=one_shot())
    resumed.load_state_dict(step.state_dict())
    resumed.start(model)
    assert all(torch.equal(mask, step.masks[name]) for name, mask in resumed.masks.items())


def test_zeros_of_the_network_are_not_taken_for_removed():
    model = nn.Linear(4, 4)
    nn.init.zeros_(model.weight)
    step = GradualPruning(0.5)
    step.before_forward(model, 0, 100)
    assert bool(step.masks["weight"].all())


def test_a_formed_weight_is_refused_while_training():
    model = network()
    prune_weights(model, keep=0.5)
    with pytest.raises(AttarError, match=r"0 carries a Sparse, and gradual pruning acts on plain weights: call its start\(model\)"):
        GradualPruning(0.2).before_forward(model, 0, 10)
    forms.attach(model[3], "weight", forms.Codebook(torch.zeros(8, 16, dtype=torch.long), torch.ones(1)))
    with pytest.raises(AttarError, match="3 carries a Codebook"):
        GradualPruning(0.2).start(model)


def test_a_network_that_has_diverged_is_named():
    model, step = network(), GradualPruning(0.2)
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")
    with pytest.raises(AttarError, match=r"3\.weight holds NaN"):
        step.before_forward(model, 0, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "keep must be in"),
        ({"keep": 0.5, "saliency": "magnitud"}, "did you mean 'magnitude'"),
        ({"keep": 0.5, "allocation": "std"}, "no allocation 'std'"),
        ({"keep": 0.5, "schedule": "cubicle"}, "did you mean 'cubic'"),
        ({"keep": 0.5, "every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_before_training(settings, message):
    with pytest.raises(AttarError, match=message):
        GradualPruning(**settings)
