"""`soda-fast prepare`: from what a data set is published as to a store. Nothing from an archive is trusted."""

DATASETS = ("cifar10", "cifar100", "tiny_imagenet", "imagenet", "coil100", "folder", "webdataset")
"""What can be prepared or checked."""
