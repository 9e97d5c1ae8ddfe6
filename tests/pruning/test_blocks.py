import dataclasses
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from attar import coding, forms
from attar.errors import AttarError
from attar.graph import Program, trace
from attar.pruning import prune_weights
from attar.pruning.blocks import cosine_distances, find_blocks, prune_blocks, remove_blocks
from attar.zoo.cifar_resnet import CifarResNet

PICTURE = (torch.zeros(1, 3, 8, 8),)


class Post(nn.Module):
    """A residual network whose blocks end in a ReLU."""

    def __init__(self, blocks=3, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1, bias=False), "bn": nn.BatchNorm2d(width)}) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = functional.relu(block["bn"](block["conv"](x)) + x)
        return self.head(x.mean((2, 3)))


def encoder(layers=2, kind=nn.TransformerEncoderLayer):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(kind(8, 2, 16, batch_first=True, norm_first=True), layers, enable_nested_tensor=False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@functools.cache
def post():
    torch.manual_seed(0)
    return trace(Post().eval(), PICTURE)


@functools.cache
def resnet(blocks):
    torch.manual_seed(0)
    return CifarResNet(blocks).eval()


@functools.cache
def traced_resnet(blocks):
    return trace(resnet(blocks), (torch.zeros(2, 3, 16, 16),))


@functools.cache
def traced_encoder():
    return trace(encoder(), (torch.zeros(2, 5, 8),))


def same(one, two, *inputs, exact=True):
    with torch.no_grad(), forms.dense(one), forms.dense(two):
        ours, theirs = one(*inputs), two(*inputs)
    torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}))


@pytest.mark.parametrize("blocks", [1, 2])
def test_down_sampling_blocks_are_no_candidates(blocks):
    network = traced_resnet(blocks)
    found = find_blocks(network)
    assert len(found) == 3 * blocks - 2
    names = [f"layer{stage}.{k}" for stage in (1, 2, 3) for k in range(blocks) if stage == 1 or k]
    assert [block.name for block in found] == names
    assert all(block.innermost and block.kind == "residual" for block in found)


def test_projections_are_no_candidates():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.shortcut = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.shortcut(x) + self.b(self.a(x).relu())

    assert find_blocks(trace(Projected(), PICTURE)) == ()


def test_what_a_removal_frees():
    network = traced_resnet(2)
    for block in find_blocks(network):
        smaller = remove_blocks(network, [block.name])
        before, after = (sum(t.numel() for t in n.tensors.values() if isinstance(t, nn.Parameter)) for n in (network, smaller))
        module = resnet(2).get_submodule(block.name)
        assert before - after == block.parameters == sum(p.numel() for p in module.parameters())
        side = {"layer1": 16, "layer2": 8, "layer3": 4}[block.name.split(".")[0]]
        assert block.macs == 2 * (2 * module.conv1.weight.numel() * side**2)
        assert not any(name.startswith(block.name) for name in smaller.tensors)


def test_a_silent_block_scores_zero_and_its_removal_is_exact():
    model = resnet(2)
    quiet = CifarResNet(2).eval()
    quiet.load_state_dict(model.state_dict())
    nn.init.zeros_(quiet.layer2[1].bn2.weight)
    nn.init.zeros_(quiet.layer2[1].bn2.bias)
    x = torch.randn(4, 3, 16, 16)
    network = dataclasses.replace(traced_resnet(2), tensors={**traced_resnet(2).tensors, **dict(quiet.named_parameters())})
    scores = cosine_distances(network, find_blocks(network), [(x,)])
    assert scores["layer2.1"] == 0.0
    assert all(score > 0 for name, score in scores.items() if name != "layer2.1")
    same(remove_blocks(network, ["layer2.1"]).program(), quiet, x)
    result = prune_blocks(quiet, (x,), count=1, data=[(x,)])
    assert result.removed == {"layer2.1": 0.0}
    same(result.model, quiet, x)


def test_the_distance_is_one_minus_the_cosine():
    x = torch.randn(6, 3, 8, 8)
    network = post()
    found = find_blocks(network)
    scores = cosine_distances(network, found, [(x[:4],), (x[4:],)])
    with torch.no_grad():
        y = functional.conv2d(x, network.tensors["stem.weight"], network.tensors["stem.bias"], padding=1).relu()
        branch = functional.conv2d(y, network.tensors["blocks.0.conv.weight"], padding=1)
        statistics = [network.tensors[f"blocks.0.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        branch = functional.batch_norm(branch, *statistics)
        cosine = functional.cosine_similarity(y.flatten(1).double(), (y + branch).flatten(1).double())
    assert scores[found[0].name] == pytest.approx(float((1 - cosine).mean()), rel=1e-4)
    with pytest.raises(AttarError, match="data holds no batch"):
        cosine_distances(network, found, [])


class Muted(nn.TransformerEncoderLayer):
    """An encoder layer some of whose branches are multiplied by zero."""

    muted = ()

    def _sa_block(self, *args, **kwargs):
        return super()._sa_block(*args, **kwargs) * float("attention" not in self.muted)

    def _ff_block(self, x):
        return super()._ff_block(x) * float("mlp" not in self.muted)


@pytest.mark.parametrize("muted", ["attention", "mlp"])
def test_a_pre_norm_encoder(muted):
    zeroed, x = encoder(kind=Muted), torch.randn(3, 5, 8)  # of the same weights, by the same seed
    zeroed.layers[1].muted = (muted,)
    network = traced_encoder()
    assert [block.name for block in find_blocks(network)] == ["layers.0.self_attn", "layers.0", "layers.1.self_attn", "layers.1"]
    name = {"attention": "layers.1.self_attn", "mlp": "layers.1"}[muted]
    smaller = remove_blocks(network, [name])
    backend = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        same(smaller.program(), zeroed, x)
        same(smaller.program(), zeroed, torch.randn(2, 5, 8))
    finally:
        torch.backends.mha.set_fastpath_enabled(backend)
    gone = set(network.tensors) - set(smaller.tensors)
    norm = {"attention": "layers.1.norm1", "mlp": "layers.1.norm2"}[muted]
    assert f"{norm}.weight" in gone
    assert sum(network.tensors[n].numel() for n in gone) == next(b.parameters for b in find_blocks(network) if b.name == name)


def test_all_blocks_together():
    network = traced_encoder()
    empty = remove_blocks(network, [block.name for block in find_blocks(network)])
    assert empty.tensors == {}
    x = torch.randn(2, 5, 8)
    assert torch.equal(empty.program()(x), x)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.outer, self.inner, self.back = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.outer(x)
        return x + self.back(y + self.inner(y).tanh())


def test_blocks_within_blocks():
    torch.manual_seed(0)
    model, x = Nested(), torch.randn(3, 4)
    network = trace(model, (x,))
    inner, outer = find_blocks(network)
    assert (inner.name, inner.innermost, outer.innermost) == ("inner", True, False)
    assert (inner.parameters, outer.parameters) == (20, 60)
    same(remove_blocks(network, [inner.name]).program(), lambda_module(lambda x: x + model.back(model.outer(x))), x)
    assert torch.equal(remove_blocks(network, [inner.name, outer.name]).program()(x), x)
    assert torch.equal(remove_blocks(network, [outer.name, inner.name]).program()(x), x)


def lambda_module(function):
    module = nn.Module()
    module.forward = function
    return module


class Used(nn.Module):
    """What is computed in the branch is given out as well."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        return x + y.relu(), y


class Plain(nn.Module):
    """A branch without a layer, as in a GELU written out."""

    def forward(self, x):
        return x + x.pow(3) * 0.044715


class Scaled(nn.Module):
    def __init__(self, swapped):
        super().__init__()
        self.fc, self.swapped = nn.Linear(4, 4), swapped

    def forward(self, x):
        return torch.add(self.fc(x), x, alpha=2) if self.swapped else torch.add(x, self.fc(x), alpha=2)


class Broadcast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return x + self.fc(x)


@pytest.mark.parametrize(("model", "count"), [(Used(), 0), (Plain(), 0), (Scaled(True), 0), (Scaled(False), 1), (Broadcast(), 0)])
def test_what_is_a_block(model, count):
    network = trace(model, (torch.zeros(2, 4),))
    found = find_blocks(network)
    assert len(found) == count
    x = torch.randn(2, 4)
    assert not count or torch.equal(remove_blocks(network, [block.name for block in found]).program()(x), x)


def test_tied_blocks_free_nothing_until_the_last_is_gone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            x = x + self.fc(x)
            return x + self.fc(x)

    network = trace(Tied(), (torch.zeros(2, 4),))
    found = find_blocks(network)
    assert [(block.name, block.parameters) for block in found] == [("fc:add", 0), ("fc:add_1", 0)]
    smaller = remove_blocks(network, "fc:add_1")
    assert [(block.name, block.parameters) for block in find_blocks(smaller)] == [("fc", 20)]


def test_a_saved_and_reloaded_program(tmp_path):
    x = torch.randn(2, 5, 8)
    smaller = remove_blocks(traced_encoder(), ["layers.0"])
    coding.save(smaller, tmp_path / "smaller.attar", codec="raw")
    reloaded = coding.load(tmp_path / "smaller.attar")
    same(reloaded.program(), smaller.program(), x)
    names = [block.name for block in find_blocks(trace(reloaded.program(), (x,)))]
    assert names == ["layers.0.self_attn", "layers.1.self_attn", "layers.1"]


def test_forms_go_with_their_tensors():
    model, x = encoder(), torch.randn(2, 5, 8)
    prune_weights(model, keep=0.5)
    network = trace(model, (x,))
    smaller = remove_blocks(network, ["layers.0"])
    assert set(network.forms) - set(smaller.forms) == {"layers.0.linear1.weight", "layers.0.linear2.weight"}
    assert isinstance(forms.of(smaller.program().get_submodule("layers.1.linear1"), "weight"), forms.Sparse)


# Identity layers: Net2DeeperNet, and back.


def deeper(norm=False):
    """A plain network, and the same with identity layers inserted after its ReLUs."""
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 6)
    extra, more = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(6, 6)
    nn.init.dirac_(extra.weight)
    nn.init.eye_(more.weight)
    for layer in (extra, more):
        nn.init.zeros_(layer.bias)
    statistics = nn.BatchNorm2d(4)
    with torch.no_grad():
        statistics.running_mean.normal_()
        statistics.running_var.uniform_(0.1, 2.0)
        statistics.weight.copy_((statistics.running_var + statistics.eps).sqrt())
        statistics.bias.copy_(statistics.running_mean)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc, nn.ReLU()]
    plain = nn.Sequential(conv, nn.ReLU(), *pool, nn.Linear(6, 2)).eval()
    inserted = [extra, statistics, nn.ReLU()] if norm else [extra, nn.ReLU()]
    return plain, nn.Sequential(conv, nn.ReLU(), *inserted, *pool, more, nn.ReLU(), plain[-1]).eval()


@pytest.mark.parametrize("norm", [False, True])
def test_net2deeper_and_removal_is_the_identity(norm):
    plain, wide = deeper(norm)
    x = torch.randn(3, 3, 8, 8)
    network = trace(wide, (x,))
    found = find_blocks(network)
    assert [block.name for block in found] == (["2", "3", "9"] if norm else ["2", "8"])
    assert {block.kind for block in found} == {"identity"}
    smaller = remove_blocks(network, [block.name for block in found])
    assert sum(t.numel() for t in smaller.tensors.values()) == sum(p.numel() for p in plain.parameters())
    same(smaller.program(), plain, x)
    same(wide, plain, x, exact=not norm)
    scores = cosine_distances(network, found, [(x,)])
    assert all(score < 1e-12 for score in scores.values())


def identity(kind, *args, **options):
    layer = kind(*args, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for o in range(layer.weight.shape[0]):
            layer.weight[(o, o % layer.weight.shape[1], *[size // 2 for size in layer.weight.shape[2:]])] = 1.0
    return layer


def biased():
    layer = identity(nn.Conv2d, 4, 4, 1)
    layer.bias.data[2] = 0.1
    return layer


@pytest.mark.parametrize(
    ("layer", "is_one"),
    [
        (identity(nn.Conv2d, 4, 4, 3, padding=1, bias=False), True),
        (identity(nn.Conv2d, 4, 4, 3, padding="same", dilation=2), True),
        (identity(nn.Conv2d, 4, 4, (1, 5), padding=(0, 2), groups=2), True),
        (identity(nn.Conv2d, 4, 4, 3, padding=1, groups=4), True),
        (identity(nn.Conv2d, 4, 4, 1, stride=2), False),  # not of one size
        (identity(nn.Conv2d, 4, 4, 2, padding="same"), False),
        (biased(), False),
        (nn.Conv2d(4, 4, 3, padding=1, bias=False), False),
        (nn.BatchNorm2d(4), False),  # var + eps is not 1
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_identity_layers(layer, is_one):
    x = torch.randn(2, 4, 6, 6)
    network = trace(layer.eval(), (x,))
    found = find_blocks(network)
    assert len(found) == is_one
    assert not is_one or torch.equal(layer(x), remove_blocks(network, [found[0].name]).program()(x))


# Greedy removal.


def test_greedy_removal_by_a_score_takes_the_least_each_time():
    torch.manual_seed(0)
    model = Post(4).eval()
    x = torch.randn(4, 3, 8, 8)
    target = model(x).detach()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def score(network):
        with torch.no_grad():
            return float((network(x) - target).square().sum())

    result = prune_blocks(model, PICTURE, keep=0.5, score=score)
    network, gone = trace(model, PICTURE), []
    for _ in range(2):
        left = [block.name for block in find_blocks(network) if block.name not in gone]
        gone.append(min(left, key=lambda name: score(remove_blocks(network, [*gone, name]).program())))
    assert list(result.removed) == gone
    assert list(result.removed.values())[-1] == score(result.model)
    assert isinstance(result.model, Program)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_tuning_acts_on_what_is_left_and_not_on_the_model():
    torch.manual_seed(0)
    model = Post(3)
    prune_weights(model, keep=0.5, layers="stem")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = []

    def tune(network):
        sizes.append(sum(p.numel() for p in network.parameters()))
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        network(torch.randn(8, 3, 8, 8)).square().sum().backward()
        optimizer.step()

    result = prune_blocks(model, PICTURE, count=2, data=[(torch.randn(2, 3, 8, 8),)], tune=tune)
    assert sizes[0] - sizes[1] == 4 * 4 * 9 + 8
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert result.model.training
    assert isinstance(forms.of(result.model.stem, "weight"), forms.Sparse)
    after = result.model.state_dict()
    assert sum(not torch.equal(before[name], tensor) for name, tensor in after.items()) == len(after) - 1  # all but the mask


def test_keep_counts_innermost_blocks():
    torch.manual_seed(0)
    data = [(torch.randn(2, 4),)]
    assert list(prune_blocks(Nested(), (torch.zeros(1, 4),), count=1, data=data).removed) == ["inner"]
    assert prune_blocks(Nested(), (torch.zeros(1, 4),), keep=1.0, data=data).removed == {}
    assert prune_blocks(Nested(), (torch.zeros(1, 4),), keep=0.1, data=data).removed == {}  # one stays at least


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 1.5, "score": len}, r"keep must be in \(0, 1\], got 1.5: it is the fraction of blocks that stays"),
        ({"count": 4, "score": len}, "count must be from 0 to 3, got 4: it is how many of the network's 3 innermost blocks are removed"),
        ({"count": -1, "score": len}, "count must be from 0 to 3"),
        ({"keep": 0.5, "count": 1, "score": len}, "give one of keep"),
        ({"score": len}, "give one of keep"),
        ({"keep": 0.5}, "got keep=0.5, count=None, no score, no data"),
        ({"keep": 0.5, "score": len, "data": []}, "got keep=0.5, count=None, a score, a data"),
        ({"keep": 0.5, "data": []}, "data holds no batch"),
        ({"keep": 0.5, "score": lambda network: math.nan}, "score gave NaN for the network without blocks.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(AttarError, match=message) as caught:
        prune_blocks(Post(3), PICTURE, **settings)
    assert "\n" not in str(caught.value)


def test_unknown_blocks():
    with pytest.raises(AttarError, match=r"there is no block 'blocks.O.conv', did you mean .*: the blocks are blocks.0.conv, "):
        remove_blocks(post(), ["blocks.O.conv"])
    with pytest.raises(AttarError, match="there is no block 'x': the network has none"):
        remove_blocks(trace(nn.Linear(2, 3), (torch.zeros(1, 2),)), ["x"])
