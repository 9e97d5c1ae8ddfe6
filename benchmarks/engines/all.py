"""Every benchmark of this folder on this machine, one after the other, then the tables and the plot: an hour of a quiet machine.

run: ATTAR_DATA=... OMP_NUM_THREADS=1 python benchmarks/engines/all.py [WORD ...]     (only commands that hold one of the words)
"""

import subprocess
import sys
from pathlib import Path

from attar.compiler.target import host

HERE = Path(__file__).parent
PEERS = "--against onnxruntime openvino"
COMMANDS = [
    f"whole.py --network resnet50 --sparsity 0 0.7 0.8 0.9 0.95 {PEERS} torch --rounds 20 --memory",
    f"whole.py --network resnet50 --sparsity 0.9 --pattern 4x1 {PEERS} torch --rounds 20 --memory",
    "whole.py --network resnet50 --sparsity 0.9 0 --pattern 1x4 --subject attar-int8 --against openvino-int8 onnxruntime-int8 --rounds 20",
    f"layers.py --sparsity 0 0.9 {PEERS} --rounds 20",
    f"whole.py --network resnet50 --sparsity 0 0.9 --threads 2 {PEERS} --rounds 20",
    f"pretrained.py --sparsity 0 0.8 0.9 {PEERS} onnxruntime-int8 openvino-int8 attar-int8 torch --rounds 30",
    f"whole.py --network mobilenet_v1 --sparsity 0 0.9 {PEERS} torch --rounds 30",
    f"whole.py --network mobilenet_v2 --sparsity 0 0.9 {PEERS} torch --rounds 30",
    f"whole.py --network vgg16 --sparsity 0 0.9 {PEERS} torch --rounds 10",
    f"whole.py --network resnet56 --sparsity 0 0.9 {PEERS} torch --rounds 30",
    f"whole.py --network lenet5 --sparsity 0 0.9 {PEERS} torch --rounds 30",
    f"whole.py --network transformer_encoder --sparsity 0 0.9 {PEERS} torch --rounds 30",
    f"whole.py --network resnet50 --sparsity 0 0.9 --batch 16 {PEERS} --rounds 5",
    "whole.py --network vgg16 --sparsity 0.9 --batch 16 --against onnxruntime --rounds 4",
]


def main() -> None:
    words = sys.argv[1:]
    for command in COMMANDS:
        if not words or any(word in command for word in words):
            print(f"+ {command}", flush=True)
            subprocess.run([sys.executable, *command.split()], cwd=HERE, check=True)
    folder = Path("results") / host().name
    drawn = [folder / f"resnet50-{pattern}-b1-t1.json" for pattern in ("unstructured", "4x1")]
    for command in (["table.py"], ["plot.py", *map(str, drawn), "--out", str(folder / "resnet50")]):
        subprocess.run([sys.executable, *command], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
