"""Where data lives: tokens and partitions, the topology document, buckets, preference lists. No clock, no IO."""

from kvstore.ring.buckets import DEFAULT_BUCKET, DEFAULT_BUCKET_NAME, BucketProperties
from kvstore.ring.member import Member, MemberState
from kvstore.ring.move import begin_move, cancel_move, finish_move, flip_move
from kvstore.ring.preference_list import PreferenceEntry, PreferenceKind, preference_list
from kvstore.ring.token import partition_of, partition_range
from kvstore.ring.topology import Move, MovePhase, Topology, found, with_bucket

__all__ = [
    "DEFAULT_BUCKET", "DEFAULT_BUCKET_NAME", "BucketProperties", "Member", "MemberState", "Move", "MovePhase",
    "PreferenceEntry", "PreferenceKind", "Topology", "begin_move", "cancel_move", "finish_move", "flip_move", "found",
    "partition_of", "partition_range", "preference_list", "with_bucket",
]  # fmt: skip
