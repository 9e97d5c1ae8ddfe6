"""Recipes that change a network's structure: stopped and resumed, as graph modules, by block and kernel, and their faults."""

import pytest
import torch
from torch import nn

import attar.recipes.run as module
from attar import coding, forms
from attar.data.digits import digits
from attar.errors import AttarError, RecipeError
from attar.evaluation import evaluate
from attar.graph import Program
from attar.recipes import check_recipe, compress, load_recipe
from attar.recipes.structure import prune_model, restructure

FILTERS = {"granularity": "filter", "saliency": "l1", "allocation": "layer", "keep": {"0": 0.5, "4": 0.25}}
TRAIN, FINETUNE = ({verb: {"epochs": 2, "lr": 0.1, "batch_size": 32}} for verb in ("train", "finetune"))
RECIPE = [TRAIN, {"prune": FILTERS}, FINETUNE, {"prune": {**FILTERS, "keep": {"4": 0.5}}}]


@pytest.fixture(scope="module")
def task():
    return digits()


def network():
    """What a step needs to be quick: one convolution, one layer of neurons."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """One uninterrupted run."""
    return compress(network(), task, RECIPE, out=tmp_path_factory.mktemp("whole") / "out", seed=3)


def test_filters_leave_the_network_and_the_report_says_how_many(whole, task):
    rows = whole.report.stages
    before = 80 + 73 * 32 + 33 * 10
    first = 40 + 37 * 8 + 9 * 10
    second = 40 + 37 * 4 + 5 * 10
    assert [row.stage for row in rows] == ["as given", "train", "prune", "finetune", "prune", "code"]
    assert [row.parameters for row in rows] == [before, before, first, first, second, second]
    assert rows[3].metric > max(rows[2].metric, 0.6)
    assert (whole.report.baseline.parameters, whole.report.result.parameters) == (before, second)
    assert evaluate(coding.load(whole.path).program(), task.test, task).fingerprint == whole.report.result.fingerprint
    assert "SMALLER 10" in whole.verdict


class Stop(Exception):
    """Stands for a kill."""


def _stopping_after(monkeypatch, name, calls):
    """Let `name`, as the run calls it, raise instead of its call number `calls`."""
    real, count = getattr(module, name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] == calls:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize(
    "stops",
    [[("save_state", 2), ("train", 1)], [("save_state", 4), ("restructure", 1), ("restore_model", 2)]],
    ids=["in the first cut, and in training after it", "in the second cut, and where the first is made again"],
)
def test_a_stopped_run_ends_in_the_same_bytes(task, whole, tmp_path, monkeypatch, stops):
    """Byte for byte; every stop is met."""
    for name, calls in stops:
        with monkeypatch.context() as patched:
            _stopping_after(patched, name, calls)
            with pytest.raises(Stop):
                compress(network(), task, RECIPE, out=tmp_path / "out", seed=3, resume=True)
    result = compress(network(), task, RECIPE, out=tmp_path / "out", seed=3, resume=True)
    assert result.path.read_bytes() == whole.path.read_bytes()
    assert [row.parameters for row in result.report.stages] == [row.parameters for row in whole.report.stages]


def test_control_is_the_whole_network(whole, task, tmp_path):
    fair = compress(network(), task, RECIPE, out=tmp_path / "fair", seed=3, control=True)
    again = compress(network(), task, RECIPE, out=tmp_path / "fair", seed=3, control=True, resume=True)
    assert whole.path.read_bytes() == fair.path.read_bytes()
    assert fair.report.baseline == again.report.baseline
    assert fair.report.baseline.parameters == whole.report.baseline.parameters
    assert fair.report.baseline.fingerprint != whole.report.baseline.fingerprint


class Sequence(nn.Module):
    """Reads a picture as eight rows; the number of heads' channels in its view is its own, so that without some it must become a graph."""

    def __init__(self):
        super().__init__()
        self.first, self.qkv, self.out, self.last = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x[:, 0])
        q, k, v = self.qkv(x).view(-1, 8, 3, 4, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 8, 16))
        return self.last(x.mean(1))


def test_a_result_that_is_a_graph_trains_and_reloads_and_is_said(task, tmp_path):
    torch.manual_seed(0)
    model = Sequence()
    recipe = [{"prune": {"granularity": "head", "saliency": "l1", "keep": 0.5}}, FINETUNE]
    result = compress(model, task, recipe, out=tmp_path / "out")
    assert any("Sequence became a graph module" in note and "forward" in note for note in result.report.notes)
    metrics = [row.metric for row in result.report.stages]
    assert metrics[2] > metrics[1] + 0.2
    assert result.report.result.parameters == result.report.baseline.parameters - 8 * 17 * 3 - 8 * 16
    again = compress(model, task, recipe, out=tmp_path / "out", resume=True)
    assert again.report.notes == result.report.notes
    assert again.path.read_bytes() == result.path.read_bytes()
    assert evaluate(coding.load(result.path).program(), task.test, task).fingerprint == result.report.result.fingerprint


def test_kernels(task, tmp_path):
    recipe = [{"prune": {"granularity": "kernel", "saliency": "l1", "keep": 0.25}}, FINETUNE]
    result = compress(network(), task, recipe, out=tmp_path / "out")
    assert int((_weight(result.model, "0").flatten(2).count_nonzero(2) > 0).sum()) == 2
    assert result.report.result.parameters == result.report.baseline.parameters == result.report.result.nonzeros + 6 * 9


def _weight(program, layer):
    with forms.dense(program):
        return program.get_parameter(f"{layer}.weight").detach()


class Blocks(nn.Module):
    """Residual blocks, all but those that are left out."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 10)
        self.left_out = ()

    def forward(self, x):
        x = self.stem(x)
        for k, block in enumerate(self.blocks):
            if k not in self.left_out:
                x = x + torch.relu(block(x))
        return self.head(x.mean((2, 3)))


def test_the_block_that_the_validation_loss_misses_least_goes(task, tmp_path):
    torch.manual_seed(0)
    model, losses = Blocks(), []
    inputs, targets = task.validation.batch(range(len(task.validation)))
    for k in range(3):
        model.left_out = (k,)
        losses.append(task.loss(model(inputs), targets).item())
    model.left_out = ()
    recipe = [{"prune": {"granularity": "block", "keep": 0.67}}, FINETUNE]
    result = compress(model, task, recipe, out=tmp_path / "out")
    assert f"removed block blocks.{losses.index(min(losses))}" in result.report.notes
    assert result.report.baseline.parameters - result.report.result.parameters == 8 * 8 * 9 + 8
    written = result.path.read_bytes()
    result.path.unlink()
    assert compress(model, task, recipe, out=tmp_path / "out", resume=True).path.read_bytes() == written


def test_restructure_makes_the_same_network(task):
    model = network()
    changed = prune_model(model, task.example(), **FILTERS)
    again = restructure(model, changed.change, task.example())
    assert all(torch.equal(a, b) for a, b in zip(changed.model.parameters(), again.parameters(), strict=True))
    assert not isinstance(again, Program)


def test_a_criterion_that_needs_gradients_gets_them_from_the_training_split(task):
    """Filters whose maps the loss does not see have no gradient, however large they are."""
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[0].weight[:4] *= 100
        model[4].weight.view(32, 8, 9)[:, :4] = 0
    by_gradient = {**FILTERS, "keep": {"0": 0.5}, "saliency": lambda weight, grad: (weight * grad).abs()}
    changed = prune_model(model, task.example(), task=task, **by_gradient)
    assert torch.equal(changed.model[0].weight, model[0].weight[4:])
    with pytest.raises(AttarError, match=r"needs grad, which are measured on data: give a task"):
        prune_model(model, task.example(), **by_gradient)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({**FILTERS, "granularity": "filtre"}, "head, inner, block, got 'filtre', did you mean 'filter'"),
        ({**FILTERS, "allocation": "layr"}, "allocation must be one of global, layer, macs, got 'layr', did you mean 'layer'"),
        ({**FILTERS, "keep": {"0": 0.5, "6": 0.5}}, "layer pattern '6' matches no group"),
        ({**FILTERS, "keep": 1.5}, "keep must be in (0, 1], got 1.5"),
        ({**FILTERS, "keep": 1.0}, "keep=1.0 removes nothing"),
        ({**FILTERS, "granularity": "head", "keep": 0.5}, "there is no head that can be cut: "),
        ({**FILTERS, "epochs": 2, "lr": 0.1}, "granularity 'filter' is pruned at once, by keep: leave out epochs"),
        ({"granularity": "filter", "quality": 1.0}, "granularity 'filter' is pruned at once, by keep"),
        ({"granularity": "block", "keep": 0.5, "allocation": "layer"}, "granularity 'block' takes keep as one number, and no allocation"),
        ({"granularity": "block", "keep": {"0": 0.5}}, "granularity 'block' takes keep as one number, and no patterns"),
        ({**FILTERS, "greedy": True}, "there is no argument 'greedy'"),
    ],
)
def test_faults_are_found_before_anything_runs(task, stage, says):
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe([TRAIN, {"prune": stage}]), network(), task)
    assert "the recipe cannot run: stage 2 (prune): " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_later_stages_are_checked_on_the_smaller_network(task):
    recipe = [{"prune": {**FILTERS, "keep": {"0": 0.01}}}, {"prune": {**FILTERS, "keep": {"0": 0.5}}}]
    with pytest.raises(RecipeError, match=r"stage 2 \(prune\): .*layer pattern '0' matches no group"):
        check_recipe(load_recipe(recipe), network(), task)


def test_structure_needs_data_to_follow_the_graph():
    with pytest.raises(RecipeError, match="granularity 'filter' needs an example"):
        check_recipe(load_recipe([{"prune": FILTERS}]), network())


@pytest.mark.parametrize("granularity", ["weight", "kernel", "block"])
def test_approximate_cuts_are_of_structures_only(granularity):
    with pytest.raises(AttarError, match="exact=False is for filter, channel, head, inner"):
        prune_model(nn.Linear(4, 4), (torch.zeros(1, 4),), keep=0.5, granularity=granularity, exact=False)
