"""Reading checkpoints without running code from them."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_NAMES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("collections", "OrderedDict"),
}


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles the description of a checkpoint's tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and name in {"float32", "float64", "bfloat16", "float16", "int64", "int32", "bool"}
        if module in _MODULES or (module, name) in _NAMES or is_dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the checkpoint's metadata asks for {module}.{name}, which is refused")


class SafeReader(dcp.FileSystemReader):
    """torch.distributed.checkpoint's reader of files, whose metadata is a pickle, with an allow-list for it.

    Our checkpoints hold tensors only, which torch itself reads without running code.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's description of its tensors."""
        path = Path(str(self.path)) / ".metadata"
        with path.open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = dcp.metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_tensors(path: Path, prefix: str, into: dict[str, Tensor]) -> None:
    """Fill the tensors of `into` from the checkpoint's tensors named prefix + name, in this process alone.

    Raises:
        ValueError: a tensor is absent, or has another shape.
    """
    tensors = {prefix + name: tensor for name, tensor in into.items()}
    check_shapes(path, tensors)
    with warnings.catch_warnings():
        # It warns that one process loads alone, which is what was asked for.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors, storage_reader=SafeReader(path), no_dist=True)


def check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError for the first tensor that the checkpoint lacks or has in another shape."""
    saved = SafeReader(path).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        size = getattr(saved.get(name), "size", None)
        if size != tensor.shape:
            found = "is absent" if size is None else f"has shape {tuple(size)}"
            raise ValueError(f"{path}: {name} {found}; the run's config.yaml asks for {tuple(tensor.shape)}")
