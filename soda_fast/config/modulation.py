"""Sections of z: how many a configuration has, what is asked of each, and what contradicts it."""

from collections.abc import Iterator

from soda_fast.config.model_schema import DecoderConfig, ModelConfig
from soda_fast.config.problems import show
from soda_fast.config.schema import Config
from soda_fast.sections import assign_sections


def modulation_of(model: ModelConfig) -> str:
    """The two keys as one word: "shared", "resolution" or "block"."""
    return "shared" if model.modulation == "shared" else model.granularity


def section_count(config: Config) -> int:
    """Sections of z; 1 where all of it modulates all blocks."""
    decoder = config.model.decoder
    return assign_sections(modulation_of(config.model), len(decoder.multipliers), decoder.blocks).count


def section_drops(config: Config) -> tuple[float, ...]:
    """Probability with which each section is dropped; empty where none is."""
    drops = config.diffusion.section_drop_probability
    each = (drops,) * section_count(config) if isinstance(drops, float | int) else drops
    return each if any(each) else ()


def sections_contradiction(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Sections that z is too narrow for, and lists that do not have one entry for each section."""
    count, z_dim = section_count(config), config.model.encoder.z_dim
    if z_dim < count:
        text = (
            f"model.encoder.z_dim is {z_dim}, too few for the {count} sections of model.modulation layerwise "
            f"({_reason(config.model.decoder, config.model.granularity)}); give at least {count}"
        )
        yield ("model.encoder.z_dim", "model.modulation", "model.granularity"), text
    lists = {
        "diffusion.section_drop_probability": config.diffusion.section_drop_probability,
        "sampling.guidance": config.sampling.guidance,
    }
    for key, value in lists.items():
        if config.model.modulation == "shared" and (isinstance(value, tuple) or (value and key.startswith("diff"))):
            text = f"{key} is {show(value)}, but z has no sections; it needs model.modulation layerwise"
            yield (key, "model.modulation"), text
        elif isinstance(value, tuple) and len(value) != count:
            text = (
                f"{key} is {show(value)}, {len(value)} entries, but z has {count} sections "
                f"({_reason(config.model.decoder, config.model.granularity)}); give one number, or {count}"
            )
            yield (key, "model.granularity"), text


def trained_without_z(config: Config) -> bool:
    """Whether the decoder meets samples of which it is told nothing."""
    return bool(config.diffusion.drop_probability) or _trained_apart(config)


def _trained_apart(config: Config) -> bool:
    """Whether the decoder misses each section of z at times."""
    drops = section_drops(config)
    return bool(drops) and all(drops)


def guidance_contradiction(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Guidance away from predictions that the decoder never learns to make."""
    guidance = config.sampling.guidance
    weights = guidance if isinstance(guidance, tuple) else (guidance,)
    if len(set(weights)) > 1 and not _trained_apart(config):
        text = (
            f"sampling.guidance is {show(guidance)} but diffusion.section_drop_probability is "
            f"{show(config.diffusion.section_drop_probability)}: a decoder that never misses single sections of z "
            "cannot guide by them; give one number"
        )
        yield ("sampling.guidance", "diffusion.section_drop_probability"), text
    elif any(weights) and not trained_without_z(config):
        text = (
            f"sampling.guidance is {show(guidance)} but diffusion.drop_probability is 0: a decoder that is "
            "never trained without z cannot guide; set sampling.guidance to 0"
        )
        yield ("sampling.guidance", "diffusion.drop_probability"), text


def _reason(decoder: DecoderConfig, granularity: str) -> str:
    levels = len(decoder.multipliers)
    each = (
        f"{levels} resolutions" if granularity == "resolution" else f"{levels} resolutions of {decoder.blocks} blocks"
    )
    return f"{each}, and the middle"
