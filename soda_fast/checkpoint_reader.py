"""Reading checkpoints without running code from them."""

import math
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

_METADATA = "torch.distributed.checkpoint.metadata"
# Single names: a module's attributes lead to all that it imports, the operating system included.
_NAMES = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("collections", "OrderedDict"),
}

# What damaged bytes have the unpickler and the classes that it calls raise. An absurd length is a MemoryError.
_UNPICKLING_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError),
    *(MemoryError, OverflowError, RuntimeError),
)


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles the description of a checkpoint's tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and name in {"float32", "float64", "bfloat16", "float16", "int64", "int32", "bool"}
        if (module, name) in _NAMES or is_dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the checkpoint's metadata asks for {module}.{name}, which is refused")


class SafeReader(dcp.FileSystemReader):
    """torch.distributed.checkpoint's reader of files, whose metadata is a pickle, with an allow-list for it.

    Our checkpoints hold tensors only, which torch itself reads without running code.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's description of its tensors."""
        path = Path(str(self.path)) / ".metadata"
        try:
            with path.open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
        except _UNPICKLING_ERRORS as error:
            raise ValueError(f"{path} is not the description of a checkpoint ({error})") from error
        if not isinstance(metadata, Metadata):
            raise ValueError(f"{path} is not the description of a checkpoint (it holds a {type(metadata).__name__})")
        storage = metadata.storage_meta or StorageMeta()
        storage.load_id = self.load_id
        metadata.storage_meta = storage
        return metadata


def read_tensors(path: Path, prefix: str, into: dict[str, Tensor]) -> None:
    """Fill the tensors of `into` from the checkpoint's tensors named prefix + name, in this process alone.

    Raises:
        ValueError: a tensor is absent, has another shape, or cannot be read.
    """
    with warnings.catch_warnings():
        # It warns that one process loads alone, which is what was asked for.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load_tensors(path, {prefix + name: tensor for name, tensor in into.items()}, no_dist=True)


def load_tensors(path: Path, tensors: dict[str, Tensor], no_dist: bool = False) -> None:
    """Fill tensors, by name, from the files in `path`. A collective, unless `no_dist`.

    Raises:
        ValueError: a tensor is absent, has another shape, or cannot be read.
    """
    _check_shapes(path, tensors)
    try:
        dcp.load(tensors, storage_reader=SafeReader(path), no_dist=no_dist)
    except CheckpointException as error:
        raise ValueError(f"{path} cannot be read: {describe_failure(error)}") from None


def _check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Names and shapes; that each is a tensor, for anything else torch would unpickle; and that all of it is there:
    what is in none of the files, torch would leave as it was."""
    saved = SafeReader(path).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        entry = saved.get(name)
        size = getattr(entry, "size", None)
        if not isinstance(entry, TensorStorageMetadata) or size != tensor.shape:
            found = "is absent" if size is None else f"has shape {tuple(size)}"
            raise ValueError(f"{path}: {name} {found}; {_remedy(name, tensor)}")
        held = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
        if held != tensor.numel():
            raise ValueError(f"{path}: it holds {held:,} of the {tensor.numel():,} numbers of {name}; remove it")


def _remedy(name: str, tensor: Tensor) -> str:
    if name.startswith("ema-"):  # of train.ema_lengths: ema-0.05.encoder.conv1.weight
        return "averages of train.ema_lengths begin with a run: leave this length out, or train anew"
    return f"the run's config.yaml asks for {tuple(tensor.shape)}"


def describe_failure(error: BaseException) -> str:
    """The reason behind an error of torch.distributed.checkpoint, in a line."""
    if isinstance(error, CheckpointException):
        reason, _ = next(iter(error.failures.values()))
        return describe_failure(reason)
    if isinstance(error, pickle.UnpicklingError):  # torch's text says how to run it
        return "there is something else than a tensor in it, which is refused: it could run code"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    # torch's writer of zip files reports its own position, not the system's error that came before.
    return f"a file could not be written whole, as on a full disk: {text}" if "inline_container" in text else text
