"""What a user who wrote an unknown key probably meant."""

from difflib import SequenceMatcher

from soda_fast.config.keys import KEYS, SECTIONS, keys_of

CLOSE_ENOUGH = 0.6
# What other trainers call these keys, where neither spelling nor words give it away.
OTHER_NAMES = {
    "batch_size": ["train.global_batch_images"],
    "workers": ["data.threads"],
    "num_workers": ["data.threads"],
    "output_dir": ["run.dir"],
    "log_dir": ["run.dir"],
    "grad_clip": ["train.clip_norm"],
    "grad_accum": ["train.accumulate"],
    "ema_decay": ["train.ema_beta"],
    "amp": ["perf.precision"],
    "image_size": ["data.source_size", "data.target_size"],
}


def unknown_key(name: str, is_mapping: bool = False) -> str:
    """The sentence for a key or section that does not exist, with the nearest that do."""
    kind = "section" if is_mapping else "key"
    nearest = suggestions(name, is_mapping)
    if nearest:
        return f"{name}: unknown {kind}; did you mean {' or '.join(nearest)}?"
    parent = name.rpartition(".")[0]
    parent = parent if parent in SECTIONS else ""
    inside = f"{parent} has" if parent else "the sections are"
    return f"{name}: unknown {kind}; {inside} {', '.join(one.rpartition('.')[2] for one in keys_of(parent))}"


def suggestions(name: str, is_mapping: bool = False) -> list[str]:
    """Up to three known names: those with the same last part in another section first, else the closest spellings."""
    known = list(SECTIONS if is_mapping else KEYS)
    if _last(name) in OTHER_NAMES and not is_mapping:
        return OTHER_NAMES[_last(name)]
    same_last_part = [one for one in known if _last(one) == _last(name)]
    candidates = same_last_part or [one for one in known if _closeness(name, one) >= CLOSE_ENOUGH]
    if not candidates:
        return []
    best = max(_closeness(name, one) for one in candidates)
    return [one for one in candidates if _closeness(name, one) >= best - 1e-9][:3]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _closeness(name: str, known: str) -> float:
    """Likeness of the dotted names, or of their last parts if the section is wrong too, or that all words return."""
    whole = SequenceMatcher(None, name, known).ratio()
    last = SequenceMatcher(None, _last(name), _last(known)).ratio()
    words_return = set(_last(name).split("_")) <= set(_last(known).split("_"))
    return max(whole, 0.9 * last, 0.8 + 0.2 * whole if words_return else 0.0)
