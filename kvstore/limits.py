"""Every bound of the wire and of client input in one place, each with its unit and reason.

Rule for editing: a limit that is enforced on both sides must be checked before memory is allocated for what it bounds.
Sibling and size limits bind client puts only, never replication, repair or reads (`correctness` rule 8).
"""

from __future__ import annotations

__all__ = [
    "BUCKETS_COUNT_MAX", "BUCKET_NAME_LENGTH_MAX", "CHUNK_SIZE_BYTES_MAX", "CLIENT_SESSIONS_COUNT_MAX",
    "CONNECTIONS_COUNT_MAX", "CONNECTION_BACKLOG_BYTES_MAX", "CONTEXT_SIZE_BYTES_MAX", "FRAME_OPERATIONS_MAX",
    "FRAME_SIZE_BYTES_MAX", "FRAME_SIZE_BYTES_TARGET", "GREETING_TIMEOUT_S", "INFLIGHT_PER_LINK_MAX",
    "INFLIGHT_PER_NODE_MAX", "KEY_SIZE_BYTES_MAX", "MEMBERS_COUNT_MAX", "OPERATIONS_KEPT_MAX", "REASSEMBLY_BYTES_MAX",
    "SCAN_BYTES_MAX", "SCAN_RECORDS_MAX", "SESSION_OBJECTS_COUNT_MAX", "SESSION_SIZE_BYTES_MAX", "SIBLINGS_COUNT_MAX",
    "STRANGERS_COUNT_MAX", "TOPOLOGY_SIZE_BYTES_MAX",
    "VALUE_DEPTH_MAX", "VALUE_SIZE_BYTES_MAX", "VECTOR_ENTRIES_MAX", "VECTOR_ENTRIES_STORED_MAX",
]  # fmt: skip

FRAME_SIZE_BYTES_MAX = 4 * 1024 * 1024 - 64
"""A frame on the wire; gRPC refuses messages above 4 MiB and the protobuf envelope needs a few bytes."""
FRAME_SIZE_BYTES_TARGET = 1024 * 1024
"""A coalescer sends a frame once it holds this much, so that one large value does not delay many small ones."""
FRAME_OPERATIONS_MAX = 4_096
"""Operations in a frame: bounds what one frame can make a decoder allocate."""
GROUP_OPERATIONS_MAX = 512
"""Writes or reads that a coordinator hands to another owner as one operation."""
GROUP_SIZE_BYTES_MAX = 256 * 1024
"""Records in one group, asked or answered: well below a chunk, so a group never travels in parts. What is larger goes alone."""
CHUNK_SIZE_BYTES_MAX = 1024 * 1024
"""A body above this travels in several PART operations (a record may hold 64 siblings of 1 MiB)."""
REASSEMBLY_BYTES_MAX = 96 * 1024 * 1024
"""Bytes of unfinished chunked bodies one connection may hold: one record with 64 values of 1 MiB and its vector."""
SCAN_RECORDS_MAX, SCAN_BYTES_MAX = 256, 256 * 1024
"""Records of one page of a scan, and the bytes after which it ends: about 2 ms of a holder's loop."""
CONNECTION_BACKLOG_BYTES_MAX = 8 * 1024 * 1024
"""Bytes queued to one slow receiver before we stop reading its requests (server) or refuse new ones (client)."""
GREETING_TIMEOUT_S = 5.0
"""Who connects has this long to say HELLO; also to finish the handshake of TCP and HTTP/2. A link gives up after 2 s itself."""
CONNECTIONS_COUNT_MAX = 3_072
"""Connections one listener holds: each may hold a backlog and unfinished bodies, so their number must be bounded as well."""
CLIENT_SESSIONS_COUNT_MAX = 2_048
"""Clients of one node at a time; the rest of CONNECTIONS_COUNT_MAX is for members (MEMBERS_COUNT_MAX) and those who greet."""
INFLIGHT_PER_LINK_MAX = 8_192
"""Operations awaiting a reply on one link; one more is refused with `Overloaded` before it is sent."""
INFLIGHT_PER_NODE_MAX = 4_096
"""Client operations one node coordinates at once; about 0.2 s of work at the speed of two cores."""
KEY_SIZE_BYTES_MAX = 1_024
VALUE_SIZE_BYTES_MAX = 1024 * 1024
VALUE_DEPTH_MAX = 16
CONTEXT_SIZE_BYTES_MAX = 128 * 1024
"""The largest vector a record may hold (VECTOR_ENTRIES_MAX of 28 bytes) fits: what a read gives, a put takes."""
SIBLINGS_COUNT_MAX = 64
SESSION_OBJECTS_COUNT_MAX = 4_096
"""Objects of which one session remembers what it has seen; a page of a web application reads a few dozen."""
SESSION_SIZE_BYTES_MAX = 512 * 1024
"""What a session remembers, as its token: 4,096 objects that four actors have written, on average."""
VECTOR_ENTRIES_MAX = 4_096
"""Actors in the vector a client's put may lead to; only amnesia events add any, so this is far above what can be met."""
VECTOR_ENTRIES_STORED_MAX = 65_535
"""Actors in the vector of a stored record, the join of what several coordinators took (`correctness` rule 8: never refused); the
2 bytes of an actor's index allow no more."""
OPERATIONS_KEPT_MAX = 16
"""(operation id, dot) pairs a record remembers, so that a retried put is recognised."""
BUCKET_NAME_LENGTH_MAX = 64
BUCKETS_COUNT_MAX = 1_000
MEMBERS_COUNT_MAX = 1_000
STRANGERS_COUNT_MAX = 4_096
"""Nodes that no topology names and whose last start is remembered, in memory: about 1 MB. More than may be connected at once."""
TOPOLOGY_SIZE_BYTES_MAX = 3 * 1024 * 1024
"""An encoded topology document; 1,000 members and 65,536 partitions fit."""
