"""The tasks of `soda-fast sample` and what they show; `tasks.py` carries them out. Without torch, for `--help`."""

TASK_NAMES = {
    "reconstruct": "from the z of one view of an image, beside that view and another one",
    "interpolate": "on the way from one image's z to another's",
    "mix": "with the coarse sections of z from one image and the fine ones from another (layerwise modulation)",
    "unconditional": "without z",
    "traverse": "along principal directions of z",
    "novel-view": "from the z of one view of an object and the cameras of others (model.pose rays)",
}
