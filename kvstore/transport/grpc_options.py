"""Channel and server options of gRPC, each with its reason. Change one only with a test or a measurement.

A channel carries exactly one connection and is never reused: reconnecting is the business of kvstore/transport/link.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.limits import GREETING_TIMEOUT_S

__all__ = ["KEEPALIVE", "Keepalive", "client_options", "server_options"]

MESSAGE_SIZE_BYTES_MAX = 4 * 1024 * 1024
"""FRAME_SIZE_BYTES_MAX plus the envelope fits; gRPC ends the stream of whoever announces more."""
METADATA_SIZE_BYTES_MAX = 8 * 1024
"""Headers of one stream; ours are some hundred bytes."""
STREAMS_PER_CHANNEL_MAX = 100
"""Streams in one HTTP/2 connection: one Exchange of ours; the others for health checks and tools."""
STREAMLESS_S_MAX = 30.0
"""How long a server keeps an HTTP/2 connection without a stream: many of them take nothing but file descriptors, but all.
gRPC looks once in this time, so it may be twice as long."""

Options = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A peer whose machine vanished without a word is noticed after at most interval + timeout. Same on both sides."""

    interval_s: float = 10.0
    timeout_s: float = 5.0


KEEPALIVE = Keepalive()


def _both_sides(keepalive: Keepalive) -> Options:
    return [
        ("grpc.max_send_message_length", MESSAGE_SIZE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_SIZE_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_SIZE_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_SIZE_BYTES_MAX),
        ("grpc.keepalive_time_ms", int(keepalive.interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive.timeout_s * 1000)),
        # The timeout above is not the one that ends the connection; this is, and its default is a minute.
        ("grpc.http2.ping_timeout_ms", int(keepalive.timeout_s * 1000)),
        # By default only two pings may go without data in between, and then keepalive falls silent.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def client_options(keepalive: Keepalive) -> Options:
    """Options of one channel."""
    return [
        *_both_sides(keepalive),
        # A frame is not idempotent for gRPC; and its retry buffer would keep a copy of what was sent.
        ("grpc.enable_retries", 0),
        # Else two channels to one address in one process share a TCP connection, its windows and its end.
        ("grpc.use_local_subchannel_pool", 1),
        # http_proxy in the environment is meant for web pages; peers are reached directly.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # One attempt is all a channel is for; short, so that the last moments of a `timeout_s` are not spent waiting.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]


def server_options(keepalive: Keepalive) -> Options:
    """Options of one listener."""
    return [
        *_both_sides(keepalive),
        # Two nodes on one port would each get a random half of the connections, in silence.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", STREAMS_PER_CHANNEL_MAX),
        # The default gives a stranger who says nothing two minutes.
        ("grpc.server_handshake_timeout_ms", int(GREETING_TIMEOUT_S * 1000)),
        ("grpc.max_connection_idle_ms", int(STREAMLESS_S_MAX * 1000)),
        # The default calls more than two pings in five minutes an attack and ends the connection of an idle client.
        ("grpc.http2.min_ping_interval_without_data_ms", int(keepalive.interval_s * 500)),
    ]
