"""Recurrent and convolutional networks over time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corpus.examples import Table, noise, tokens

__all__ = ["SEQUENCE"]


class GatedWaveNet(nn.Module):
    """Gates, residuals and skips summed over all layers, causal by padding."""

    def __init__(self, channels: int = 16, skips: int = 24) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, channels, 1)
        self.filters = nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=2**i) for i in range(4))
        self.gates = nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(channels, skips, 1) for _ in range(4))
        self.end1, self.end2 = nn.Conv1d(skips, 32, 1), nn.Conv1d(32, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.start(x), 0
        for i, (filters, gates, residual, skip) in enumerate(zip(self.filters, self.gates, self.residual, self.skip, strict=True)):
            padded = F.pad(x, (2**i, 0))
            y = torch.tanh(filters(padded)) * torch.sigmoid(gates(padded))
            total = total + skip(y)
            x = x + residual(y)
        return self.end2(F.relu(self.end1(F.relu(total))))


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        norm, padding = nn.utils.parametrizations.weight_norm, 2 * dilation
        self.net = nn.Sequential(
            norm(nn.Conv1d(inputs, outputs, 3, padding=padding, dilation=dilation)),
            Chomp(padding),
            nn.ReLU(),
            norm(nn.Conv1d(outputs, outputs, 3, padding=padding, dilation=dilation)),
            Chomp(padding),
            nn.ReLU(),
        )
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + (x if self.downsample is None else self.downsample(x)))


class TemporalNet(nn.Module):
    """Dilated causal convolutions with weight norm, cut at the end of each."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(TemporalBlock(4, 16, 1), TemporalBlock(16, 32, 2), TemporalBlock(32, 32, 4))
        self.linear = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.net(x)[:, :, -1])


class LSTMClassifier(nn.Module):
    """Two layers, the last hidden state of the top one classified by two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(40, 24), nn.LSTM(24, 32, num_layers=2, batch_first=True, dropout=0.3)
        self.fc1, self.fc2 = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embedding(ids))
        return self.fc2(F.relu(self.fc1(hidden[-1])))


class GRUAttention(nn.Module):
    """Places of a bidirectional GRU weighed by a small net (additive attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(40, 24), nn.GRU(24, 24, bidirectional=True, batch_first=True)
        self.attention, self.context = nn.Linear(48, 32), nn.Linear(32, 1, bias=False)
        self.fc = nn.Sequential(nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.gru(self.embedding(ids))
        weights = torch.softmax(self.context(torch.tanh(self.attention(states))), dim=1)
        return self.fc((weights * states).sum(dim=1)), weights.squeeze(-1)


class Tagger(nn.Module):
    """A bidirectional LSTM of two layers and a label for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.shapes = nn.Embedding(40, 24, padding_idx=0), nn.Embedding(6, 8)
        self.lstm = nn.LSTM(32, 24, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden, self.labels = nn.Linear(48, 32), nn.Linear(32, 7)

    def forward(self, words: Tensor, shapes: Tensor) -> Tensor:
        x, _ = self.lstm(torch.cat([self.words(words), self.shapes(shapes)], dim=-1))
        return self.labels(F.relu(self.hidden(x)))


class TextReader(nn.Module):
    """As CRNN: convolutions squeeze a line of text to one row, a bidirectional LSTM reads along it."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, 3, 1, 1),
            nn.ReLU(True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, 1, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(True),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(32, 32, (4, 1)),
            nn.ReLU(True),
        )
        self.rnn, self.embedding = nn.LSTM(32, 24, bidirectional=True), nn.Linear(48, 20)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.cnn(x).squeeze(2).permute(2, 0, 1)
        recurrent, _ = self.rnn(conv)
        T, b, h = recurrent.size()
        return self.embedding(recurrent.view(T * b, h)).view(T, b, -1).transpose(0, 1)


class Seq2Seq(nn.Module):
    """An encoder's last states begin the decoder, whose outputs attend to the encoder's by dot products."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 24), nn.Embedding(40, 24)
        self.encoder, self.decoder = nn.LSTM(24, 32, batch_first=True), nn.LSTM(24, 32, batch_first=True)
        self.combine, self.out = nn.Linear(64, 32), nn.Linear(32, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.source(source))
        x, _ = self.decoder(self.target(target), state)
        weights = torch.bmm(x, memory.transpose(1, 2)).softmax(-1)
        return self.out(torch.tanh(self.combine(torch.cat((torch.bmm(weights, memory), x), dim=2))))


class TextCNN(nn.Module):
    """Convolutions of three widths over words, each maximum over time concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.convs = nn.ModuleList(nn.Conv2d(1, 24, (k, 32)) for k in (2, 3, 4))
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(72, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).unsqueeze(1)
        maps = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.fc(self.dropout(torch.cat([F.max_pool1d(m, m.size(2)).squeeze(2) for m in maps], 1)))


class QuasiRecurrent(nn.Module):
    """Gated linear units by 1-D convolution, and an average that runs by cumulative sums."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.conv1, self.conv2 = nn.Linear(6, 32), nn.Conv1d(32, 64, 3), nn.Conv1d(32, 64, 3)
        self.norm, self.fc = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.inputs(x)).transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            x = (x + F.glu(conv(F.pad(x, (2, 0))), dim=1)) * 0.5**0.5
        steps = torch.arange(1, x.shape[2] + 1, dtype=x.dtype)
        return self.fc(self.norm((x.cumsum(2) / steps).transpose(1, 2)))


_IDS = tokens(12, 40)

SEQUENCE: Table = {
    "gated_wavenet": (GatedWaveNet, (noise(2, 1, 32),)),
    "temporal": (TemporalNet, (noise(2, 4, 24),)),
    "lstm_classifier": (LSTMClassifier, (_IDS,)),
    "gru_attention": (GRUAttention, (_IDS,)),
    "tagger": (Tagger, (_IDS, tokens(12, 6, seed=1))),
    "text_reader": (TextReader, (noise(2, 1, 16, 24),)),
    "seq2seq": (Seq2Seq, (_IDS, tokens(8, 40, seed=1))),
    "text_cnn": (TextCNN, (_IDS,)),
    "quasi_recurrent": (QuasiRecurrent, (noise(2, 16, 6),)),
}
