"""Every network of the zoo: exact counts, shapes, seeds; and, on real data, the published accuracies."""

import os

import pytest
import torch

from attar import names, zoo
from attar.data.cifar import cifar10
from attar.data.digits import digits
from attar.data.mnist import mnist
from attar.data.pictures import pictures
from attar.task import fetch, top1, top5
from attar.zoo.cifar_resnet import Block
from attar.zoo.efficientnet import _conv, _pad

PARAMETERS = {
    "digits_net": 38_282,
    "efficientnet_lite0": 4_652_008,
    "lenet5": 431_080,
    "lenet_300_100": 266_610,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "resnet110": 1_727_962,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet34": 21_797_672,
    "resnet44": 658_586,
    "resnet50": 25_557_032,
    "resnet56": 853_018,
    "transformer_encoder": 3_159_040,
    "vgg16": 138_357_544,
    "vgg16_cifar": 14_991_946,
}
real = pytest.mark.skipif("ATTAR_DATA" not in os.environ, reason="needs real data in $ATTAR_DATA")
IMAGENET = ("efficientnet_lite0", "mobilenet_v1", "mobilenet_v2", "resnet34", "resnet50", "vgg16")
OUTPUTS = {"transformer_encoder": (128, 256)} | dict.fromkeys(IMAGENET, (1000,))  # of one sample; (10,) where not named


def correct(model, split):
    """How many samples are in the top 1 and the top 5."""
    model.eval()
    counts = torch.zeros(2)
    with torch.no_grad():
        for indices in torch.arange(len(split)).split(250):
            inputs, targets = fetch(split, indices)
            outputs = model(inputs)
            counts += torch.stack([top1(outputs, targets).sum(), top5(outputs, targets).sum()])
    return counts.int().tolist()


def pretrained(name):
    return zoo.load_weights(names.find("zoo", name)(), zoo.weights(name))


def test_the_zoo_is_what_the_folder_lists():
    assert set(names.members("zoo")) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_counts_shapes_and_seeds(name):
    build = names.find("zoo", name)
    torch.manual_seed(3)
    model = build().eval()
    torch.manual_seed(3)
    again = build()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    if name != "transformer_encoder":  # its inputs are not pictures
        assert len(model.mean) == len(model.std) == model.example_shape[0]
    example = torch.rand(2, *model.example_shape)
    with torch.no_grad():
        outputs = model(example)
        assert outputs.shape == (2, *OUTPUTS.get(name, (10,)))
        assert outputs.isfinite().all()
        assert (outputs[0] != outputs[1]).any()
        torch.testing.assert_close(model(example[:1]), outputs[:1], rtol=1e-4, atol=1e-4)


def test_mobilenet_v1_ends_on_maps_of_7():
    """Table 1 of the paper misprints the last stride."""
    model = names.find("zoo", "mobilenet_v1")().eval()
    with torch.no_grad():
        assert model.features(torch.rand(1, *model.example_shape)).shape == (1, 1024, 7, 7)


def test_the_transformer_encoder_is_pytorchs():
    """The same weights in `nn.TransformerEncoderLayer` give the same outputs, and tokens in another order the outputs in that order."""
    model = names.find("zoo", "transformer_encoder")().eval()
    ours = model.layers[0]
    theirs = torch.nn.TransformerEncoderLayer(256, 4, 1024, activation="gelu", batch_first=True).eval()
    state = {
        f"self_attn.in_proj_{kind}": torch.cat([getattr(layer, kind) for layer in (ours.query, ours.key, ours.value)])
        for kind in ("weight", "bias")
    }
    pairs = {"self_attn.out_proj": "projection", "linear1": "hidden", "linear2": "output", "norm1": "norm1", "norm2": "norm2"}
    state |= {f"{their}.{kind}": getattr(getattr(ours, our), kind) for their, our in pairs.items() for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    x, order = torch.randn(2, 128, 256), torch.randperm(128)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x[:, order]), model(x)[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [7, 8, 14, 15])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(size, kernel):
    """Output ceil(n / 2), the window of output 0 begins at -(total // 2): read off a convolution that copies its last tap."""
    conv = _conv(1, 1, kernel, stride=2)
    with torch.no_grad():
        conv.weight.zero_()[0, 0, -1, -1] = 1
        x = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
        y = conv(_pad(x, conv))[0, 0]
    count = -(-size // 2)
    total = max((count - 1) * 2 + kernel - size, 0)
    assert y.shape == (count, count)
    last = [2 * i - total // 2 + kernel - 1 for i in range(count)]
    expected = [[x[0, 0, r, c].item() if r < size and c < size else 0 for c in last] for r in last]
    assert y.tolist() == expected


def test_option_a_shortcut_keeps_every_second_pixel_in_the_middle_channels():
    block = Block(16, 32).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_digits_net_learns_the_digits():
    torch.manual_seed(0)
    model, task = names.find("zoo", "digits_net")(), digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(12):
        for indices in torch.randperm(len(task.train)).split(64):
            inputs, targets = fetch(task.train, indices)
            optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            optimizer.step()
    assert correct(model, task.test)[0] / len(task.test) > 0.96


@real
@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("resnet20", 9173), ("resnet32", 9263), ("resnet44", 9310), ("resnet56", 9339)])
def test_published_accuracy_on_cifar10(name, expected):
    model = pretrained(name)
    assert abs(correct(model, cifar10(**zoo.preprocessing(model)).test)[0] - expected) <= 2  # a tie of logits differs by processor


@real
@pytest.mark.slow
def test_published_accuracy_on_mnist():
    model = pretrained("lenet5")
    assert abs(correct(model, mnist(**zoo.preprocessing(model)).test)[0] - 9905) <= 1


@real
@pytest.mark.slow
def test_measured_accuracy_on_the_sample_pictures():
    model = pretrained("efficientnet_lite0")
    task = pictures(f"{os.environ['ATTAR_DATA']}/imagenet-sample", **zoo.preprocessing(model))
    counts = torch.tensor([correct(model, split) for split in (task.train, task.validation, task.test)]).sum(0)
    assert (counts - torch.tensor([442, 485])).abs().max() <= 1
