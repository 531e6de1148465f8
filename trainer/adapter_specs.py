"""From the settings of an adapter to the specs of dora_core, one per part of the base model. Free of torch."""

from __future__ import annotations

from dora_core.families import TEXT_ENCODER_TARGETS, UNET_TARGETS, Family
from dora_core.spec import AdapterSpec, TargetRule
from trainer.config_sections import AdapterConfig


def adapter_specs(adapter: AdapterConfig, family: Family) -> dict[str, AdapterSpec]:
    """What to adapt, by the name of the part: the UNet, and all text encoders where they are trained."""
    parts = [component.name for component in family.components if component.name == "unet" or adapter.text_encoder]
    return {part: adapter_spec(adapter, part) for part in parts}


def adapter_spec(adapter: AdapterConfig, part: str) -> AdapterSpec:
    """What to adapt in one part of the pipeline; the user's own globs are about the UNet."""
    if part == "unet":
        include, exclude = adapter.include or UNET_TARGETS[adapter.targets], adapter.exclude
    else:
        include, exclude = TEXT_ENCODER_TARGETS[adapter.targets], ()
    return AdapterSpec(
        kind=adapter.kind,
        norm_axis=adapter.norm_axis,
        norm_gradient=adapter.norm_gradient,
        rank=adapter.rank,
        alpha=adapter.alpha,
        conv_rank=adapter.conv_rank if part == "unet" else None,
        rank_stabilised=adapter.rank_stabilised,
        dropout=adapter.dropout,
        rules=tuple(_rule(adapter, pattern, rank) for pattern, rank in adapter.ranks.items()) if part == "unet" else (),
        include=include,
        exclude=exclude,
    )


def _rule(adapter: AdapterConfig, pattern: str, rank: int) -> TargetRule:
    """With alpha / rank as all others have it; rank-stabilised with their alpha, which serves every rank."""
    alpha = adapter.rank if adapter.alpha is None else adapter.alpha
    return TargetRule(pattern, rank, alpha if adapter.rank_stabilised else rank * alpha / adapter.rank)
