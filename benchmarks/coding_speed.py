"""Size and speed of the codecs: coded bits beside the entropy, and a file of 25 million weights at 90 % sparsity.

run: python benchmarks/coding_speed.py [--repeats 5] [--json FILE]
Each repeat times all cases once, one after the other, so that a slow minute of the machine falls on all; the medians are printed.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.coding import bits, entropy, gaps, huffman

Stream = tuple[NDArray[np.int64], int]  # symbols, alphabet
CODECS: dict[str, tuple[Callable, Callable]] = {
    "bits": (bits.pack, bits.unpack),
    "huffman": (huffman.encode, huffman.decode),
    "entropy": (entropy.encode, entropy.decode),
}


def normal(rng: np.random.Generator, count: int, alphabet: int) -> Stream:
    return np.clip(np.rint(rng.normal(alphabet / 2, alphabet / 6, count)), 0, alphabet - 1).astype(np.int64), alphabet


def workloads() -> dict[str, Stream]:
    rng = np.random.default_rng(0)
    mask = rng.random(2_000_000) < 0.1
    cases = {
        "2,000 value codes, 5 bits": normal(rng, 2_000, 32),
        "value codes, 5 bits": normal(rng, 200_000, 32),
        "value codes, 8 bits": normal(rng, 200_000, 256),
        "gaps with escape, 5 bits": (gaps.escape_encode(mask, 5).astype(np.int64), 32),
        "mask, density 0.0056": ((rng.random(1_000_000) < 0.0056).astype(np.int64), 2),
        "all the same, 1 bit": (np.zeros(1_000_000, np.int64), 2),
        "uniform, 4 bits": (rng.integers(0, 16, 200_000), 16),
    }
    for width in (10, 12, 16):
        cases[f"value codes, {width} bits"] = normal(rng, 200_000, 1 << width)
        cases[f"uniform, {width} bits"] = (rng.integers(0, 1 << width, 200_000), 1 << width)
    return cases


def resnet50_streams() -> list[Stream]:
    """Value codes (32 values) and gaps (5 bits, escape) of 54 tensors of ResNet-50's shapes at 90 % sparsity."""
    sizes, width = [64 * 3 * 49], 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [planes * width, planes * planes * 9, planes * 4 * planes] + ([planes * 4 * width] if block == 0 else [])
            width = planes * 4
    rng = np.random.default_rng(0)
    streams: list[Stream] = []
    for size in [*sizes, 1000 * 2048]:
        mask = rng.random(size) < 0.1
        streams += [(gaps.escape_encode(mask, 5).astype(np.int64), 32), normal(rng, int(mask.sum()), 32)]
    return streams


def entropy_bits(symbols: NDArray[np.int64]) -> float:
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float((counts * np.log2(symbols.size / counts)).sum())


def each(codec: Callable, streams: Sequence[tuple]) -> list[Any]:
    return [codec(*stream) for stream in streams]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def measure_codecs(repeats: int) -> list[dict[str, Any]]:
    cases = [(name, codec, stream) for name, stream in workloads().items() for codec in CODECS]
    times: list[list[tuple[float, float]]] = [[] for _ in cases]
    sizes = [0] * len(cases)
    for _ in range(repeats):
        for i, (name, codec, (symbols, alphabet)) in enumerate(cases):
            encode, decode = CODECS[codec]
            encode_s, data = timed(partial(encode, symbols, alphabet))
            decode_s, back = timed(partial(decode, data, symbols.size, alphabet))
            assert np.array_equal(back, symbols), (name, codec)
            times[i].append((encode_s, decode_s))
            sizes[i] = len(data)
    rows = []
    for (name, codec, (symbols, _)), seconds, size in zip(cases, times, sizes, strict=True):
        ideal, count = entropy_bits(symbols), symbols.size
        rows.append(
            {
                "stream": name,
                "codec": codec,
                "symbols": count,
                "entropy_bits": ideal / count,
                "coded_bits": 8 * size / count,
                "excess_percent": 100 * (8 * size / ideal - 1) if ideal else None,
                "excess_bytes": size - ideal / 8,
                "encode_msymbols_s": count / median(s[0] for s in seconds) / 1e6,
                "decode_msymbols_s": count / median(s[1] for s in seconds) / 1e6,
            }
        )
    return rows


def measure_file(repeats: int) -> list[dict[str, Any]]:
    streams = resnet50_streams()
    count, ideal = sum(symbols.size for symbols, _ in streams), sum(entropy_bits(symbols) for symbols, _ in streams)
    decode_many: dict[str, Callable] = {
        "bits": partial(each, bits.unpack),
        "huffman": huffman.decode_many,
        "entropy": entropy.decode_many,
    }
    times: dict[str, list[tuple[float, float]]] = {codec: [] for codec in CODECS}
    sizes = {}
    for _ in range(repeats):
        for codec, (encode, _) in CODECS.items():
            encode_s, data = timed(partial(each, encode, streams))
            coded = [(d, symbols.size, alphabet) for d, (symbols, alphabet) in zip(data, streams, strict=True)]
            decode_s, back = timed(partial(decode_many[codec], coded))
            assert all(np.array_equal(b, symbols) for b, (symbols, _) in zip(back, streams, strict=True)), codec
            times[codec].append((encode_s, decode_s))
            sizes[codec] = sum(map(len, data))
    return [
        {
            "codec": codec,
            "streams": len(streams),
            "symbols": count,
            "entropy_bytes": ideal / 8,
            "bytes": sizes[codec],
            "encode_s": median(s[0] for s in times[codec]),
            "decode_s": median(s[1] for s in times[codec]),
        }
        for codec in CODECS
    ]


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def print_tables(result: dict[str, Any]) -> None:
    print(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items()) + f", median of {result['repeats']}\n")
    print("Entropy and coded size in bits per symbol, speeds in million symbols per second.\n")
    print("| stream | codec | symbols | entropy | coded | excess | excess, bytes | encode | decode |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in result["codecs"]:
        excess = "" if row["excess_percent"] is None else f"{row['excess_percent']:.2f} %"
        print(
            f"| {row['stream']} | {row['codec']} | {row['symbols']:,} | {row['entropy_bits']:.4f} | {row['coded_bits']:.4f} | {excess} "
            f"| {row['excess_bytes']:.0f} | {row['encode_msymbols_s']:.1f} | {row['decode_msymbols_s']:.1f} |"
        )
    print("\nA file: ResNet-50's 25.5 million weights at 90 % sparsity, value codes and gaps of 5 bits\n")
    print("| codec | streams | symbols | entropy, bytes | coded, bytes | encode all, s | decode all, s |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for row in result["file"]:
        print(
            f"| {row['codec']} | {row['streams']} | {row['symbols']:,} | {row['entropy_bytes']:,.0f} | {row['bytes']:,} "
            f"| {row['encode_s']:.2f} | {row['decode_s']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result = {
        "machine": machine(),
        "repeats": args.repeats,
        "codecs": measure_codecs(args.repeats),
        "file": measure_file(args.repeats),
    }
    print_tables(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
