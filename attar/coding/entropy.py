"""The coder at the Shannon bound: rANS whose model learns from the symbols already decoded, so that no table is stored.

rANS (Jarek Duda, "Asymmetric numeral systems", 2013, arxiv.org/abs/1311.2540) keeps a whole number x per lane. With frequencies
f_s of sum M = 2^scale and starts c_s = f_0 + ... + f_{s-1}, a symbol s is pushed by x -> (x div f_s) M + c_s + (x mod f_s) and
popped by finding the s with c_s <= x mod M < c_s + f_s, then x -> f_s (x div M) + x mod M - c_s. A state is kept in [M, 2^32 M) by
moving its low 32 bits to and from a stream of words. Symbols are popped in their order, so they are pushed in the reverse.

A file holds hundreds of streams and NumPy pays per call, so the lanes of all streams are popped in lock step (`decode_many`); where
too few lanes are left to pay for that, plain Python integers do the same. FORMAT.md is the law; everything here is whole numbers.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attar.coding import bits
from attar.errors import FormatError

__all__ = ["decode", "decode_many", "encode", "lanes"]

Ints = NDArray[np.int64]

MODELLED_BITS = 12  # a symbol wider than this has its low bits stored flat
SMALL_ALPHABET = 256  # up to here no bits are flat, and short streams have the smaller scale
WORD = (1 << 32) - 1
MODELS = 1 << 17  # entries of the models that the encoder computes at once
CHUNK = 1 << 16  # symbols made Python integers at a time, which take ten times an array's memory


def lanes(count: int) -> int:
    """How many states a stream of `count` symbols is dealt to. A state costs about 4 bytes, so low-entropy streams bear few.

    >>> [lanes(n) for n in (100, 8191, 8192, 65_536, 2_000_000)]
    [1, 1, 2, 16, 30]
    """
    return max(1, min(count // 4096, 16), count // 65536)


def encode(symbols: ArrayLike, alphabet: int) -> bytes:
    """Symbols in [0, alphabet), alphabet at most 65,536, in about as many bits as their empirical entropy.

    >>> len(encode([0] * 1000 + [1], 2))
    5
    """
    array = bits.as_symbols(symbols, alphabet)
    if alphabet == 1 or not array.size:
        return b""
    if alphabet <= SMALL_ALPHABET:
        return _encode(array, alphabet)
    best = b""
    for flat in range(max(0, bits.width(alphabet) - MODELLED_BITS), bits.width(alphabet)):
        low = bits.pack(array & (1 << flat) - 1, 1 << flat)
        data = bytes([flat]) + _encode(array >> flat, _modelled(alphabet, flat)) + low
        if best and len(data) >= len(best):
            break
        best = data
    return best


def decode(data: bytes, count: int, alphabet: int) -> NDArray[np.int32]:
    """The inverse of `encode`; FormatError where the data cannot be the code of `count` symbols.

    >>> decode(encode([3, 1, 2], 4), 3, 4).tolist()
    [3, 1, 2]
    """
    return decode_many([(data, count, alphabet)])[0]


def decode_many(streams: Sequence[tuple[bytes, int, int]]) -> list[NDArray[np.int32]]:
    """What `decode` gives for each (data, count, alphabet), all at once: far faster than one after the other."""
    parsed = [_parse(*stream) for stream in streams]
    out = [np.zeros(count, np.int32) for _, count, _ in streams]
    for group in _groups([i for i, stream in enumerate(parsed) if stream.count], parsed):
        members = [parsed[i] for i in group]
        for i, symbols in zip(group, _decode_group(members), strict=True):
            out[i] = symbols
    for i, stream in enumerate(parsed):
        if stream.flat:
            out[i] = out[i] << stream.flat | bits.unpack(stream.low, stream.count, 1 << stream.flat)
            if int(out[i].max()) >= streams[i][2]:
                raise FormatError(f"symbols must be below {streams[i][2]}, got {out[i].max()}: the file is corrupt")
    return out


# What encoder and decoder must agree on: who codes which symbol, and with which frequencies.


def _scale(count: int, alphabet: int) -> int:
    return 16 if count < 4096 and alphabet <= SMALL_ALPHABET else 24


def _modelled(alphabet: int, flat: int) -> int:
    return (alphabet - 1 >> flat) + 1


def _first(step: int, lane_count: int) -> int:
    """How many symbols come before this step. Step t has min(2^t, lanes) of them, so that the first are not all coded blindly."""
    ramp = min(step, (lane_count - 1).bit_length())
    return (1 << ramp) - 1 + (step - ramp) * lane_count


def _lane_of(count: int, lane_count: int) -> Ints:
    """The lane of each symbol: within a step, the lanes in their order."""
    ramp = (lane_count - 1).bit_length()
    head = np.concatenate([np.arange(1 << step) for step in range(ramp)] + [np.arange(0)])
    return np.concatenate([head, np.arange(max(count - head.size, 0)) % lane_count])[:count]


def _next_update(step: int) -> int:
    """The step before which the model is estimated anew, after it was at `step`."""
    return step + max(1, step // 32)


def _epochs(count: int, lane_count: int) -> Iterator[tuple[int, int]]:
    """The runs [a, b) of symbols that share a model."""
    step, a = 0, 0
    while a < count:
        step = _next_update(step)
        b = min(_first(step, lane_count), count)
        yield a, b
        a = b


def _model(counts: Ints, alphabets: Ints, scales: Ints) -> tuple[Ints, Ints]:
    """Frequencies and starts [streams, width] from the counts [streams, width] of the symbols seen; columns past an alphabet are 0.

    The pseudo-count grows with the number of distinct symbols seen: it is 3/4 once that is all, and small while a few symbols make
    up the whole stream.
    """
    pseudo = np.maximum(1, 48 * (np.count_nonzero(counts, axis=1) + 1) // alphabets)
    inside = np.arange(counts.shape[1]) < alphabets[:, None]
    weight = np.where(inside, 64 * counts + pseudo[:, None], 0)
    total = np.left_shift(1, scales)
    frequency = weight * (total - alphabets)[:, None] // weight.sum(axis=1, keepdims=True) + inside
    frequency[np.arange(len(counts)), counts.argmax(axis=1)] += total - frequency.sum(axis=1)
    return frequency, np.cumsum(frequency, axis=1) - frequency


# Encoding.


def _encode(symbols: Ints, alphabet: int) -> bytes:
    lane_count, scale = lanes(symbols.size), _scale(symbols.size, alphabet)
    frequency, start = _codes(symbols, alphabet)
    # About where one NumPy call per operation and step becomes cheaper than Python's integers.
    push = _push_serial if lane_count < 32 else _push_lockstep
    states, words = push(frequency, start, lane_count, scale)
    return _write_states(states, scale) + words.astype("<u4").tobytes()


def _codes(symbols: Ints, alphabet: int) -> tuple[Ints, Ints]:
    """Frequency and start of each symbol under the model of its epoch."""
    frequency, start = np.empty_like(symbols), np.empty_like(symbols)
    epochs = list(_epochs(symbols.size, lanes(symbols.size)))
    seen = np.zeros((1, alphabet), np.int64)
    at_once = max(1, MODELS // alphabet)
    for i in range(0, len(epochs), at_once):
        group = epochs[i : i + at_once]
        counts = np.concatenate([seen, [np.bincount(symbols[a:b], minlength=alphabet) for a, b in group]]).cumsum(axis=0)
        seen = counts[-1:]
        tables = _model(counts[:-1], np.full(len(group), alphabet), np.full(len(group), _scale(symbols.size, alphabet)))
        for (a, b), f, c in zip(group, *tables, strict=True):
            frequency[a:b], start[a:b] = f.take(symbols[a:b]), c.take(symbols[a:b])
    return frequency, start


def _push_serial(frequency: Ints, start: Ints, lane_count: int, scale: int) -> tuple[list[int], Ints]:
    states, words = [1 << scale] * lane_count, []
    columns = (frequency, start, _lane_of(frequency.size, lane_count))
    for stop in range(frequency.size, 0, -CHUNK):
        chunk = slice(max(stop - CHUNK, 0), stop)
        for f, c, lane in zip(*(column[chunk][::-1].tolist() for column in columns), strict=True):
            x = states[lane]
            if x >> 32 >= f:
                words.append(x & WORD)
                x >>= 32
            states[lane] = (x // f << scale) + x % f + c
    return states, np.array(words[::-1], np.int64)


def _push_lockstep(frequency: Ints, start: Ints, lane_count: int, scale: int) -> tuple[list[int], Ints]:
    states, words = np.full(lane_count, 1 << scale, np.int64), [np.zeros(0, np.int64)]
    b, step = frequency.size, 0
    while _first(step + 1, lane_count) < b:
        step += 1
    while step >= 0:
        a = _first(step, lane_count)
        f, x = frequency[a:b], states[: b - a]
        full = np.flatnonzero(x >> 32 >= f)
        words.append((x[full] & WORD)[::-1])
        x[full] >>= 32
        quotient = x // f
        x += quotient * ((1 << scale) - f) + start[a:b]
        b, step = a, step - 1
    return states.tolist(), np.concatenate(words)[::-1]


def _write_states(states: list[int], scale: int) -> bytes:
    """Each state in as few bytes as it needs, after how many those are; a lone state's follow from the length of the data."""
    sizes = [(x.bit_length() + 7) // 8 for x in states]
    head = bits.pack(np.array(sizes) - (scale // 8 + 1), 4) if len(states) > 1 else b""
    return head + b"".join(x.to_bytes(size, "little") for x, size in zip(states, sizes, strict=True))


# Decoding.


@dataclass(frozen=True)
class _Stream:
    """A stream taken apart; count is 0 where nothing is left to decode."""

    count: int
    alphabet: int
    scale: int
    flat: int
    low: bytes
    states: list[int]
    words: Ints

    @property
    def depth(self) -> int:
        return bits.width(self.alphabet)

    @property
    def steps(self) -> int:
        width = len(self.states)
        ramp = (width - 1).bit_length()
        return ramp + -(-(self.count - _first(ramp, width)) // width)


def _parse(data: bytes, count: int, alphabet: int) -> _Stream:
    flat, low, modelled = 0, b"", alphabet
    if alphabet > SMALL_ALPHABET and count:
        flat = data[0] if data else 0
        narrowest = max(0, bits.width(alphabet) - MODELLED_BITS)
        if not data or not narrowest <= flat < bits.width(alphabet):
            raise FormatError(f"flat bits must be in [{narrowest}, {bits.width(alphabet)}), got {flat}: the file is corrupt")
        size = -(-count * flat // 8)
        if len(data) < 1 + size:
            raise FormatError(f"{count} symbols with {flat} flat bits need {1 + size} bytes, got {len(data)}: the file is truncated")
        modelled = _modelled(alphabet, flat)
        data, low = data[1 : len(data) - size], data[len(data) - size :]
    if count == 0 or alphabet == 1:
        if len(data):
            raise FormatError(f"a stream without information must be empty, got {len(data)} bytes: the file is corrupt")
        return _Stream(0, modelled, 16, flat, low, [], np.zeros(0, np.int64))
    scale = _scale(count, modelled)
    states, offset = _read_states(data, lanes(count), scale)
    if (len(data) - offset) % 4:
        raise FormatError(f"words of 4 bytes must follow the states, got {len(data) - offset} bytes: the file is truncated")
    words = np.frombuffer(data, "<u4", offset=offset).astype(np.int64)
    return _Stream(count, modelled, scale, flat, low, states, words)


def _read_states(data: bytes, lane_count: int, scale: int) -> tuple[list[int], int]:
    shortest, offset = scale // 8 + 1, -(-lane_count // 4) if lane_count > 1 else 0
    if lane_count > 1:
        sizes = bits.unpack(data[:offset], lane_count, 4) + shortest
    else:
        sizes = np.array([shortest + (len(data) - shortest) % 4])
    if len(data) < offset + int(sizes.sum()):
        raise FormatError(f"the {lane_count} states need {offset + sizes.sum()} bytes, got {len(data)}: the file is truncated")
    states = []
    for size in sizes.tolist():
        states.append(int.from_bytes(data[offset : offset + size], "little"))
        offset += size
        if states[-1] >> 8 * (size - 1) == 0:
            raise FormatError("a state must not end in a zero byte: the file is corrupt")
    return states, offset


def _groups(indices: list[int], streams: list[_Stream]) -> Iterator[list[int]]:
    """Streams to decode together: alike in depth, since all share the width of the tables, and few enough for a bounded memory."""
    for deep in (False, True):
        members = [i for i in indices if (streams[i].alphabet > SMALL_ALPHABET) == deep]
        at_once = 64 if deep else 1024
        yield from (members[k : k + at_once] for k in range(0, len(members), at_once))


def _decode_group(streams: list[_Stream]) -> list[NDArray[np.int32]]:
    """By the way that takes less time, as estimated from what was measured on one core, in microseconds; both give the same."""
    symbols = sum(stream.count for stream in streams)
    models = [_models(stream.steps) for stream in streams]
    entries = len(streams) << max(stream.depth for stream in streams)
    serial = 0.4 * symbols + 45 * sum(models)
    lockstep = 0.05 * symbols + 30 * max(stream.steps for stream in streams) + (60 + 0.03 * entries) * max(models)
    return _pop_lockstep(streams) if lockstep < serial else [_pop_serial(stream) for stream in streams]


def _models(steps: int) -> int:
    """About how often the model is estimated: at each of the first 32 steps, then 22 times while the steps double."""
    return min(steps, 32 + 22 * max(0, steps.bit_length() - 6))


def _pop_serial(stream: _Stream) -> NDArray[np.int32]:
    scale, states, words = stream.scale, list(stream.states), iter(stream.words.tolist())
    least, mask = 1 << scale, (1 << scale) - 1
    order = _lane_of(stream.count, len(states))
    counts = np.zeros((1, stream.alphabet), np.int64)
    out: list[NDArray[np.int32]] = []
    for a, b in _epochs(stream.count, len(states)):
        frequency, start = (table[0].tolist() for table in _model(counts, np.array([stream.alphabet]), np.array([scale])))
        symbols = []
        for lane in order[a:b].tolist():
            x = states[lane]
            slot = x & mask
            symbol = bisect_right(start, slot) - 1
            x = frequency[symbol] * (x >> scale) + slot - start[symbol]
            if x < least:
                x = x << 32 | next(words, -1)  # once below 0, a state stays there and the last check fails
            states[lane] = x
            symbols.append(symbol)
        out.append(np.array(symbols, np.int32))
        counts[0] += np.bincount(symbols, minlength=stream.alphabet)
    _check_end(all(x == least for x in states) and next(words, None) is None)
    return np.concatenate(out)


def _check_end(holds: bool) -> None:
    if not holds:
        raise FormatError("an entropy-coded stream must end in its first state with all words read: the file is corrupt")


def _pop_lockstep(streams: list[_Stream]) -> list[NDArray[np.int32]]:
    order = sorted(range(len(streams)), key=lambda i: -streams[i].depth)  # so that a level of the search concerns the first lanes
    streams = [streams[i] for i in order]
    owner, lane, enter, leave = _spans(streams)
    states = np.concatenate([np.array(stream.states, np.int64) for stream in streams])
    words = np.concatenate([stream.words for stream in streams] + [np.zeros(1, np.int64)])
    ends = np.cumsum([stream.words.size for stream in streams])
    next_word = np.concatenate([[0], ends[:-1]])
    depths, alphabets = np.array([stream.depth for stream in streams]), np.array([stream.alphabet for stream in streams])
    scales, sizes = np.array([stream.scale for stream in streams]), np.array([stream.count for stream in streams])
    counts = np.zeros((len(streams), 1 << depths[0]), np.int64)
    position = np.cumsum(sizes) - sizes
    out = np.empty(sizes.sum(), np.int32)
    update, last = 0, int(leave.max())
    events = np.unique(np.concatenate([enter, leave]))
    step = 0
    while step < last:
        if step == update:
            frequency, start = _model(counts, alphabets, scales)
            update = _next_update(step)
        stop = min(update, int(events[np.searchsorted(events, step, "right")]))
        active = np.flatnonzero((enter <= step) & (leave > step))
        who = owner[active]
        rows = np.empty((stop - step, active.size), np.int64)
        x, next_word = _pop_rows(
            rows, states[active], who=who, depth=depths[who], scale=scales[who], tables=(frequency, start), words=words, next_word=next_word
        )
        states[active] = x
        counts += np.bincount(rows.reshape(-1), minlength=counts.size).reshape(counts.shape)
        width = np.bincount(who, minlength=len(streams))
        out[position[who] + lane[active] + width[who] * np.arange(stop - step)[:, None]] = rows & counts.shape[1] - 1
        position += width * (stop - step)
        step = stop
    _check_end(bool((states == np.left_shift(1, scales)[owner]).all() and (next_word == ends).all()))
    parts = dict(zip(order, np.split(out, position[:-1]), strict=True))
    return [parts[i] for i in range(len(order))]


def _spans(streams: list[_Stream]) -> tuple[Ints, Ints, Ints, Ints]:
    """For every lane of every stream: the stream, its number there, its first step, and the step after its last."""
    widths = np.array([len(stream.states) for stream in streams])
    owner = np.repeat(np.arange(len(streams)), widths)
    lane = np.arange(owner.size) - (np.cumsum(widths) - widths)[owner]
    enter = np.searchsorted(1 << np.arange(40), lane, "right")
    steps = np.array([stream.steps for stream in streams])
    rest = np.array([stream.count - _first(stream.steps - 1, len(stream.states)) for stream in streams])
    return owner, lane, enter, steps[owner] - (lane >= rest[owner])


def _pop_rows(
    rows: Ints, x: Ints, *, who: Ints, depth: Ints, scale: Ints, tables: tuple[Ints, Ints], words: Ints, next_word: Ints
) -> tuple[Ints, Ints]:
    """Fill each row with one symbol per lane, as its place in the tables laid end to end; returns the new states and next words."""
    table_width = tables[0].shape[1]
    frequency, start = (table.reshape(-1) for table in tables)
    least = np.left_shift(1, scale)
    mask = least - 1
    levels = [(np.array(1 << level), int(np.count_nonzero(depth > level))) for level in reversed(range(int(depth[0])))]
    ramp = np.arange(x.size)
    rows[:] = who * table_width
    for row in rows:
        slot = x & mask
        for half, deep in levels:
            probe = row[:deep] + half
            np.copyto(row[:deep], probe, where=start.take(probe) <= slot[:deep])
        x >>= scale
        x *= frequency.take(row)
        x += slot
        x -= start.take(row)
        empty = (x < least).nonzero()[0]
        if empty.size:
            takers = who.take(empty)
            taken = np.bincount(takers, minlength=next_word.size)
            next_word = next_word + taken
            place = (next_word - taken.cumsum()).take(takers)  # of a stream's first word, less the takers before that stream
            place += ramp[: empty.size]
            x[empty] = x.take(empty) << 32 | words.take(place, mode="clip")
    return x, next_word
