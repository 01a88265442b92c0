"""Networks, one module per family; `register_model` adds more."""

BUILT_IN = {
    "digits-cnn": ("bench.models.small_cnn:DigitsCNN", "two convolutions for 8 x 8 digits, 38k weights"),
    "mnist-cnn": ("bench.models.small_cnn:MnistCNN", "two convolutions for MNIST, 166k weights"),
}

#: the network of `base.model = "auto"`
DEFAULT = {"digits": "digits-cnn", "mnist": "mnist-cnn"}
