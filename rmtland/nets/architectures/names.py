"""Names of the networks, for whoever checks one before torch is imported."""

NETWORKS = ("mlp", "cnn", "lenet", "alexnet", "vgg11", "resnet18", "resnet20", "densenet40", "transformer")

DEEP = ("alexnet", "vgg11", "resnet18", "resnet20", "densenet40")
"""Those of which a pass over some hundred examples takes a second: commands train and measure them less by default."""
