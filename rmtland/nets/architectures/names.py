"""Names of the networks, for whoever checks one before torch is imported."""

NETWORKS = ("mlp", "cnn", "lenet", "alexnet", "vgg11", "resnet18", "resnet20", "densenet40", "transformer")
