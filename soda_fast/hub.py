"""Hugging Face's way of keeping models: `pip install 'soda-fast[hub]'`.

    HubSODA.from_run("runs/cifar10").save_pretrained("folder")     # or push_to_hub("user/name")
    model = HubSODA.from_pretrained("folder")                      # or "user/name"

A folder holds what `soda-fast export` writes, and a model card; `soda_fast.load` and `load_encoder` read it too.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from soda_fast.config import Config
from soda_fast.export import export
from soda_fast.model import SODA
from soda_fast.pretrained import PretrainedSODA, load


class HubSODA(PretrainedSODA, ModelHubMixin):
    """`soda_fast.load`'s model with save_pretrained, from_pretrained and push_to_hub."""

    def __init__(self, model: SODA, config: Config) -> None:
        super().__init__(model, config)
        self.eval().requires_grad_(False)

    @classmethod
    def from_run(cls, path: str | Path) -> "HubSODA":
        """The averaged weights of a run, or an exported folder. Raises as `soda_fast.load`."""
        loaded = load(path)
        return cls(loaded, loaded.config)

    def _save_pretrained(self, save_directory: Path) -> None:
        export(self, self.config, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,  # config.json's own entries, which `load` reads
    ) -> "HubSODA":
        if Path(model_id).is_dir():
            return cls.from_run(model_id)
        folder = snapshot_download(
            repo_id=model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls.from_run(folder)
