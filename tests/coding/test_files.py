import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attar.coding import decode, encode, load, save, validate, write_atomically
from attar.errors import AttarError, FormatError
from attar.forms import Codebook
from attar.graph import call_with, eval_mode, trace


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.gru = nn.Embedding(30, 8), nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), nn.GRU(12, 5)
        self.rnn = nn.RNN(5, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(tokens))
        return self.rnn(self.gru(x.transpose(0, 1))[0])[1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(16, 4, batch_first=True), nn.LayerNorm(16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.norm(x + self.attention(x, x, x, need_weights=False)[0]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).tril())

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.head(self.embed(tokens))
        return scores.masked_fill(~self.mask[: tokens.shape[1], :1], -1.0) * self.steps


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, pair: tuple[Tensor, dict[str, Tensor]], *, scale: float = 2.0) -> dict:
        a, b = self.left(pair[0]), self.right(pair[1]["right"])
        return {"sum": a + b * scale, "parts": (a, [b, {"twice": 2 * a}]), "none": None}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=4))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += 1
        y = self.up(y).mul_(0.5)
        return nn.functional.interpolate(y, scale_factor=2, mode="bilinear").clamp_(-1, 1)


EXAMPLES = {
    "recurrent": (Recurrent, (torch.arange(14).reshape(2, 7),)),
    "attention": (Attention, (torch.linspace(-1, 1, 160).reshape(2, 5, 16),)),
    "tied": (Tied, (torch.arange(10).reshape(2, 5),)),
    "nested": (Nested, {"pair": (torch.ones(2, 3), {"right": torch.full((2, 2), 0.5)}), "scale": 3.0}),
    "in_place": (InPlace, (torch.linspace(-2, 2, 384).reshape(2, 3, 8, 8),)),
}

RUN = """
import sys, torch
from attar.coding import load
from attar.graph import call_with, eval_mode
folder = sys.argv[1]
for name in sys.argv[2:]:
    program = load(f"{folder}/{name}.attar").program()
    with eval_mode(program), torch.no_grad():
        torch.save(call_with(program, torch.load(f"{folder}/{name}.example")), f"{folder}/{name}.result")
"""


def test_a_fresh_process_gives_bit_equal_outputs_without_the_classes(tmp_path, lenet5):
    examples = EXAMPLES | {"lenet5": (lambda: lenet5, (torch.linspace(-1, 1, 3 * 784).reshape(3, 1, 28, 28),))}
    expected = {}
    for name, (make, example) in examples.items():
        torch.manual_seed(0)
        model = make().eval()
        with eval_mode(model), torch.no_grad():
            expected[name] = call_with(model, example)
        save(trace(model, example), tmp_path / f"{name}.attar")
        torch.save(example, tmp_path / f"{name}.example")
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path), *examples], check=True, env=os.environ | threads)
    for name in examples:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.result"), expected[name], rtol=0, atol=0)


def test_a_loaded_network_trains_and_its_forms_stay(lenet5_network):
    program = decode(encode(lenet5_network)).program()
    weights = [name for name, parameter in program.named_parameters() if parameter.requires_grad]
    assert "conv1.weight_form.values.centroids.values" in weights
    before = program.get_parameter("fc1.weight_form.values.centroids.values").detach().clone()
    optimizer = torch.optim.SGD(program.parameters(), lr=0.1)
    program.train()
    loss = program(torch.ones(2, 1, 28, 28)).square().sum()
    loss.backward()
    optimizer.step()
    assert not torch.equal(before, program.get_parameter("fc1.weight_form.values.centroids.values"))


def test_what_was_frozen_stays_frozen(bundle):
    frozen, free = Codebook(torch.tensor([0, 1]), torch.tensor([1.0, 2.0])), Codebook(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    frozen.requires_grad_(False)
    again = decode(encode(bundle({"frozen": frozen, "free": free})))
    assert {name: tensor.requires_grad for name, tensor in again.tensors.items()} == {"frozen": False, "free": True}
    for name, form in again.forms.items():
        assert all(parameter.requires_grad == (name == "free") for parameter in form.parameters())


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path, lenet5, lenet5_network):
    save(lenet5_network, tmp_path / "a.attar")
    save(load(tmp_path / "a.attar"), tmp_path / "b.attar")
    assert (tmp_path / "a.attar").read_bytes() == (tmp_path / "b.attar").read_bytes()
    save(trace(load(tmp_path / "a.attar").program(), (torch.zeros(5, 1, 28, 28),)), tmp_path / "c.attar")
    torch.testing.assert_close(load(tmp_path / "c.attar").program()(torch.ones(1, 1, 28, 28)), lenet5(torch.ones(1, 1, 28, 28)))


def test_the_batch_size_of_the_example_leaves_no_trace(lenet5, lenet5_network):
    assert encode(trace(lenet5, (torch.zeros(9, 1, 28, 28),))) == encode(lenet5_network)


def test_the_header_of_lenet5_is_small(lenet5_network):
    data = encode(lenet5_network)
    start = min(stream.offset for stream in validate(data).streams)
    assert start < 400


def test_the_loaded_graph_has_the_results_of_one_sample(lenet5_network):
    network = decode(encode(lenet5_network))
    shapes = {node.name: tuple(node.meta["val"].shape) for node in network.graph.nodes if node.op != "output"}
    assert shapes["x"] == (1, 1, 28, 28)
    assert shapes["conv2d"] == (1, 20, 24, 24)


def test_a_graph_that_does_not_run_on_one_sample_is_probed_with_the_example_s():
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0] // 2, 2, 3)[:, 0]

    network = trace(Pairs(), (torch.ones(4, 3),))
    again = decode(encode(network))
    assert tuple(again.program()(torch.ones(6, 3)).shape) == (3, 3)
    assert encode(again) == encode(network)


def test_what_the_inputs_are_normalised_by_is_kept():
    class Normalised(nn.Identity):
        mean, std = (0.5, 0.25), (1.0, 2.0)

    again = decode(encode(trace(Normalised(), (torch.ones(2, 2),))))
    assert again.preprocessing == {"mean": (0.5, 0.25), "std": (1.0, 2.0)}


def test_names_can_be_left_out(lenet5, lenet5_network):
    data = encode(lenet5_network, names=False)
    streams_begin = [min(stream.offset for stream in validate(d).streams) for d in (data, encode(lenet5_network))]
    assert streams_begin[0] < streams_begin[1]
    x = torch.ones(2, 1, 28, 28)
    assert torch.equal(decode(data).program()(x), lenet5(x))


def test_a_network_that_needs_more_memory_than_allowed_is_refused(tmp_path, lenet5_network):
    save(lenet5_network, tmp_path / "n.attar")
    with pytest.raises(FormatError, match="at once"):
        load(tmp_path / "n.attar", byte_cap=1 << 20)


# The file itself.


def test_the_previous_file_stays_where_the_disk_is_full(tmp_path):
    target = tmp_path / "model.attar"
    target.write_bytes(b"before")
    script = f"""
import resource
from attar.coding import write_atomically
from attar.errors import AttarError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_atomically({str(target)!r}, bytes(1_000_000))
except AttarError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert done.stdout.count("\n") == 1
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.attar"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"before")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "m", b"after")
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m").read_bytes() == b"before"


@pytest.mark.parametrize(("place", "hint"), [("missing/m.attar", "make the folder"), (".", "folder"), ("file/m.attar", "folder")])
def test_a_place_that_cannot_be_written_is_named(tmp_path, place, hint):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AttarError, match=hint):
        write_atomically(tmp_path / place, b"data")


def test_a_symbolic_link_is_replaced_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    (tmp_path / "m.attar").symlink_to(secret)
    write_atomically(tmp_path / "m.attar", b"data")
    assert secret.read_bytes() == b"mine"
    assert not (tmp_path / "m.attar").is_symlink()
    assert (tmp_path / "m.attar").read_bytes() == b"data"


def test_a_file_is_readable_as_the_user_s_files_are(tmp_path):
    mask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "m", b"data")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


@pytest.mark.parametrize("text", [b"", b"\x89ATR", b"PK\x03\x04 a zip file", b"\x80\x02 a pickle"])
def test_what_is_no_attar_file_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "x.attar").write_bytes(text)
    with pytest.raises(FormatError, match=r"x\.attar: "):
        load(tmp_path / "x.attar")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AttarError, match=r"cannot read .*nothing\.attar"):
        load(tmp_path / "nothing.attar")
    with pytest.raises(AttarError, match="cannot read"):
        load(tmp_path)


def test_loading_does_not_hold_the_file_twice(tmp_path, bundle):
    network = bundle({"w": torch.zeros(40_000_000)})
    save(network, tmp_path / "w.attar", codec="raw")
    del network
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    again = load(tmp_path / "w.attar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 160_000  # KiB: the file has 156,250
    assert again.tensors["w"].data_ptr() % 64 in (0, 16, 32, 48)


def test_paths_may_be_strings_or_path_objects(tmp_path, lenet5_network):
    save(lenet5_network, str(tmp_path / "a"))
    save(lenet5_network, Path(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
