"""Distributed k-means by mergeable partial sums, and groups of a minimum size with their conditions."""

from ttsgan.clustering.groups import Conditions, Groups, Members, allocate, entity_latents, form_groups
from ttsgan.clustering.kmeans import (
    LocalShards,
    PartialSums,
    Shard,
    Shards,
    assign,
    kmeans,
    merge,
    partial_sums,
    update,
)

__all__ = [
    "Conditions",
    "Groups",
    "LocalShards",
    "Members",
    "PartialSums",
    "Shard",
    "Shards",
    "allocate",
    "assign",
    "entity_latents",
    "form_groups",
    "kmeans",
    "merge",
    "partial_sums",
    "update",
]
