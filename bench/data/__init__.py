"""Datasets, one module each; `register_dataset` adds more. A dataset class has

- `Params` (a subclass of `TaskParams`), `summary`, and `downloads`: whether `check(None)` fetches what is missing,
- `facts(params, data_dir) -> TaskFacts`, cheap, raises `DataError` if a file is missing or damaged,
- `load(params, data_dir) -> Task`,
- `check(data_dir) -> list[str]`, one line per file that was verified,
- `files(data_dir) -> list[Path]`, what must lie there, or in the user's own cache for None; nothing is read or fetched.
"""

BUILT_IN = {
    "digits": "bench.data.digits:Digits",
    "mnist": "bench.data.mnist:Mnist",
    "cifar10": "bench.data.cifar10:Cifar10",
    "imagenet": "bench.data.imagenet:ImageNet",
}
