"""Datasets, one module each; `register_dataset` adds more. A dataset class has

- `Params` (a subclass of `TaskParams`), `summary`, and `downloads`: whether `check(None)` fetches what is missing,
- `facts(params, data_dir) -> TaskFacts`, cheap, raises `DataError` where a file is missing or damaged,
- `load(params, data_dir) -> Task`,
- `check(data_dir) -> list[str]`, one line per file that was verified,
- `files(data_dir) -> list[Path]`, the files that it needs there, or in the user's cache for None; it reads nothing.
"""

BUILT_IN = {
    "digits": "bench.data.digits:Digits",
    "mnist": "bench.data.mnist:Mnist",
    "cifar10": "bench.data.cifar10:Cifar10",
    "imagenet": "bench.data.imagenet:ImageNet",
}
