"""Datasets, one module each; `register_dataset` adds more. A dataset class has

- `Params` (a subclass of `TaskParams`), `summary` (or it is given to `register_dataset`), and `downloads`: whether
  `check(None)` fetches what is missing,
- `facts(params, data_dir) -> TaskFacts`, cheap, raises `DataError` if a file is missing or damaged,
- `load(params, data_dir) -> Task`,
- `check(data_dir) -> list[str]`, one line per file that was verified,
- `files(data_dir) -> list[Path]`, what must lie there, or in the user's own cache for None; nothing is read or fetched.
"""

#: by name: its class, and a summary
BUILT_IN = {
    "digits": ("bench.data.digits:Digits", "scikit-learn's 1797 handwritten 8 x 8 digits (embedded)"),
    "mnist": ("bench.data.mnist:Mnist", "MNIST, 60,000 + 10,000 handwritten 28 x 28 digits"),
    "cifar10": ("bench.data.cifar10:Cifar10", "CIFAR-10, 50,000 + 10,000 images of ten things, 3 x 32 x 32"),
    "imagenet": (
        "bench.data.imagenet:ImageNet",
        "ImageNet class folders of JPEG files, any subset of the classes, 3 x 224 x 224",
    ),
}
