"""Whole networks, stem to classifier: Attar's time beside other engines' on the same weights, at several sparsities.

run: python benchmarks/engines/whole.py --network resnet50 --sparsity 0 0.8 0.9 0.95 [--pattern 4x1] [--batch 16] [--threads 2]
     [--against onnxruntime openvino torch] [--subject attar] [--rounds 30] [--memory] [--out FILE]
Needs `pip install attar[bench]`. Every engine runs each sparsity's own weights and must agree with PyTorch before it is timed.
"""

from functools import partial

from networks import NETWORKS, build, sparsity_of
from timing import noise, options, peak_memory, place, show, side_by_side, write


def main() -> None:
    parser = options(__doc__, ["onnxruntime", "openvino", "torch"])
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--memory", action="store_true", help="also the memory of each engine, in a process of its own")
    given = parser.parse_args()
    out = place(given, given.network)
    records = []
    for sparsity in given.sparsity:
        make = partial(build, given.network, sparsity=sparsity, pattern=given.pattern)
        model = make()
        example = noise(model.example_shape, given.batch)
        record = side_by_side(model, example, given.subject, given.against, threads=given.threads, rounds=given.rounds)
        if given.memory:
            for engine, figures in record["engines"].items():
                figures["memory"] = peak_memory(engine, model, make, example, given.threads)
        about = {"case": given.network, "sparsity": sparsity, "zeros": sparsity_of(model), "pattern": given.pattern}
        records.append(about | record)
        show(records[-1])
        write(out, "whole", records)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
