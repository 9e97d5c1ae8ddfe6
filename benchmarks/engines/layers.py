"""Single convolutions of ResNet-50: Attar's time at each sparsity beside the dense fp32 engines'.

run: python benchmarks/engines/layers.py [--layers "3x3 64@56" ...] [--sparsity 0 0.8 0.9] [--pattern 4x1] [--batch 16] [--threads 2]
     [--against onnxruntime openvino torch] [--rounds 50] [--out FILE]
Needs `pip install attar[bench]`. The time of a layer is a twelfth of what a chain of sixteen, with ReLUs between, takes longer than one
of four, by every engine alike: what is done to the input and the output is in both (the strided layer is timed alone, with it). An
untimed call of the same engine comes before each timed one, since what the other engines leave in the caches says nothing of a
layer; networks are timed without it.
"""

from networks import LAYERS, LESS, layer, sparsity_of
from timing import noise, options, place, show, side_by_side, write


def work(name: str, batch: int) -> float:
    """Floating-point operations of one dense layer of the chain: 2 x multiply-adds."""
    inside, outside, kernel, stride, size, _ = LAYERS[name]
    return 2.0 * batch * inside * outside * kernel**2 * (size // stride) ** 2


def main() -> None:
    parser = options(__doc__, ["onnxruntime", "openvino", "torch"])
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    given = parser.parse_args()
    out = place(given, "layers")
    records = []
    for name in given.layers:
        for sparsity in given.sparsity:
            model, shape = layer(name, sparsity=sparsity, pattern=given.pattern)
            example = noise(shape, given.batch)
            length = LAYERS[name][-1]
            less, _ = layer(name, sparsity=sparsity, pattern=given.pattern, length=LESS) if length > LESS else (None, None)
            record = side_by_side(
                model,
                example,
                given.subject,
                given.against,
                threads=given.threads,
                rounds=given.rounds,
                parts=length - LESS if less else length,
                less=less,
                warm=True,
            )
            about = {"case": name, "sparsity": sparsity, "zeros": sparsity_of(model), "pattern": given.pattern}
            records.append(about | record | {"flop": work(name, given.batch)})
            show(records[-1])
            write(out, "layers", records)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
