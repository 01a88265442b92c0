"""Networks, one module per family; `register_model` adds more, `bench.models.sources` finds the one asked for."""

BUILT_IN = {
    "digits-cnn": ("bench.models.small_cnn:DigitsCNN", "two convolutions for 8 x 8 digits, 38k weights"),
    "mnist-cnn": ("bench.models.small_cnn:MnistCNN", "two convolutions for MNIST, 166k weights"),
    "strided-cnn": ("bench.models.small_cnn:StridedCNN", "three strided convolutions, 24k weights"),
    "cifar-resnet20": ("bench.models.resnet:resnet20", "ResNet-20 for 32 x 32 images, 274k weights"),
    "cifar-resnet18": ("bench.models.resnet:resnet18", "ResNet-18 for 32 x 32 images, 11.2M weights"),
    "cifar-plain": ("bench.models.resnet:PlainCNN", "six convolutions without shortcuts, 289k weights"),
}

#: the network of `base.model = "auto"`
DEFAULT = {"digits": "digits-cnn", "mnist": "mnist-cnn", "cifar10": "cifar-resnet20"}
#: another architecture for the same data: `threat.surrogate = "other"`
OTHER = {"digits": "strided-cnn", "mnist": "strided-cnn", "cifar10": "cifar-plain"}

#: this code shapes networks: see `bench.source`
SHAPES_ROWS = True
