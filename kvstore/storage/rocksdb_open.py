"""How a RocksDB store is set up and opened, and what makes a start refuse it.

    recall          the kernel remembers a failed write to it    SuspectStore
    open_database   corrupt, or a flipped bit in the log         SuspectStore
                    its lock is held                             DataDirectoryInUse

Part of a promise: `tolerate_corrupted_tail_records` (`correctness` 27; the default mode drops synced data after a bit flip in
the log and says nothing) and paranoid checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, Rdict

from kvstore.errors import Corruption, DataDirectoryInUse, SuspectStore
from kvstore.storage.directory import DATABASE_DIRECTORY, IDENTITY_FILE, REPLACE_HINT, read_node_id
from kvstore.storage.engine import Family
from kvstore.storage.rocksdb_errors import translate
from kvstore.storage.witness import Statement
from kvstore.storage.witness_file import FileWitness

__all__ = ["EngineOptions", "open_database", "recall"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Memory and disk of one store. An idle node stays small because memtables are allocated as they fill."""

    write_buffer_bytes: int = 32 * 1024 * 1024
    """One memtable; at most three live in a family. Larger: fewer flushes, more replay and memory."""
    write_buffers_bytes_max: int = 64 * 1024 * 1024
    """Memtables of all families together."""
    block_cache_bytes: int = 64 * 1024 * 1024
    """Shared by both families; a get that misses it costs a pread of 4 KiB."""
    log_bytes_max: int = 128 * 1024 * 1024
    """Log that may have to be replayed at open: about 1 s."""
    bloom_bits_per_key: int = 10
    """1 % of the gets of absent keys read a block; 1.25 MB per million keys."""
    memtable_bloom_share: float = 0.02
    """Of a memtable's bytes, for a filter of its keys: a get of an absent key takes 1.4 us instead of 3.5 to 5.8, and every first
    write of a key makes one at each of its owners."""
    background_jobs: int = 2
    low_space_bytes: int | None = None
    """Watermark below which client data is refused; None is 5 % of the file system within 16 to 256 MiB."""


def recall(directory: Path, witness: FileWitness, boot_id: str) -> Statement | None:
    """Return what this kernel remembers of the store in a directory; `SuspectStore` if that is a failed write."""
    statement = witness.recall()
    if statement is None or not (directory / IDENTITY_FILE).exists():
        return None
    if not statement.is_of(boot_id=boot_id, store=read_node_id(directory)):
        return None
    if statement.is_suspect:
        raise SuspectStore(f"{directory} had a failed write to disk, and could not be marked: {REPLACE_HINT}")
    return statement


def open_database(directory: Path, options: EngineOptions) -> Rdict:
    """Open the database, or make one. Raises `SuspectStore`, `DataDirectoryInUse` or `StorageError`."""
    cache = Cache(options.block_cache_bytes)
    families = {family.value: _family_options(options, cache) for family in Family}
    try:
        return Rdict(str(directory / DATABASE_DIRECTORY), _family_options(options, cache), column_families=families)
    except Exception as error:  # boundary: rocksdict raises nothing narrower
        mapped = translate(error)
        if isinstance(mapped, Corruption):
            raise SuspectStore(f"{directory} is corrupt ({mapped.message}): {REPLACE_HINT}") from error
        if "LOCK" in mapped.message:
            raise DataDirectoryInUse(f"{directory} is in use by another process") from error
        raise mapped from error


def _family_options(options: EngineOptions, cache: Cache) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(options.bloom_bits_per_key, False)
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.create_missing_column_families(True)
    made.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    made.set_paranoid_checks(True)
    made.set_block_based_table_factory(table)
    made.set_compression_type(DBCompressionType.lz4())
    made.set_write_buffer_size(options.write_buffer_bytes)
    made.set_memtable_whole_key_filtering(True)
    made.set_memtable_prefix_bloom_ratio(options.memtable_bloom_share)
    made.set_max_write_buffer_number(3)
    made.set_db_write_buffer_size(options.write_buffers_bytes_max)
    made.set_max_total_wal_size(options.log_bytes_max)
    made.set_max_background_jobs(options.background_jobs)
    # RocksDB's own chatter, which otherwise grows without bound.
    made.set_keep_log_file_num(4)
    made.set_max_log_file_size(4 * 1024 * 1024)
    made.set_stats_dump_period_sec(0)
    made.set_stats_persist_period_sec(0)
    return made
