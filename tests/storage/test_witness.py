"""What the kernel remembers of a store, and the file it is in: weak where anything is odd, gone when nobody needs it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.storage.witness import Statement
from kvstore.storage.witness_file import FileWitness, default_run_directory

SAID = Statement("boot-1", "aabb", b"run 7", 100)


def begun(run: Path, data: Path, statement: Statement = SAID) -> FileWitness:
    data.mkdir(parents=True, exist_ok=True)
    witness = FileWitness(run, data)
    assert witness.begin(statement) == ""
    return witness


@pytest.mark.parametrize(
    ("run", "sequence", "is_proof"),
    [
        (b"run 7", 100, True),
        (b"run 7", 101, True),  # a kill between a batch and the word of it: nobody had heard of that batch
        (b"run 7", 99, False),
        (b"run 6", 1_000, False),  # a later moment of another history
        (None, 1_000, False),
    ],
)
def test_only_the_same_run_and_all_of_it_is_a_proof(run: bytes | None, sequence: int, is_proof: bool) -> None:
    """More changes are none if they are not those of the run that was seen last."""
    assert (SAID.contradiction(run=run, sequence=sequence) == "") is is_proof


def test_a_statement_is_of_one_store_under_one_kernel() -> None:
    """And of none if the kernel does not say which one it is."""
    assert SAID.is_of(boot_id="boot-1", store="aabb")
    assert not SAID.is_of(boot_id="boot-2", store="aabb")
    assert not SAID.is_of(boot_id="boot-1", store="ccdd")
    assert not replace(SAID, boot_id="").is_of(boot_id="", store="aabb")


def test_what_is_told_is_recalled_by_the_next_process(tmp_path: Path) -> None:
    """Without any system call for a sequence number: the page is shared with whoever opens the file."""
    witness = begun(tmp_path / "run", tmp_path / "data")
    witness.applied(2**40)
    assert witness.refuse("S stale: ä".encode())

    found = FileWitness(tmp_path / "run", tmp_path / "data").recall()
    witness.accuse()
    accused = FileWitness(tmp_path / "run", tmp_path / "data").recall()

    assert found is not None and accused is not None
    assert (found.boot_id, found.store, found.run, found.sequence) == ("boot-1", "aabb", b"run 7", 2**40)
    assert (found.refused[:8], found.is_suspect, accused.is_suspect) == (b"S stale:", False, True)


def test_a_store_that_fails_while_it_opens_accuses_the_page_of_its_last_run(tmp_path: Path) -> None:
    """Its own has not begun yet."""
    begun(tmp_path / "run", tmp_path / "data").close()

    FileWitness(tmp_path / "run", tmp_path / "data").accuse()
    found = FileWitness(tmp_path / "run", tmp_path / "data").recall()

    assert found is not None and found.is_suspect


def test_a_stop_forgets_and_a_refusal_does_not(tmp_path: Path) -> None:
    """A node that ended cleanly leaves no file."""
    witness = begun(tmp_path / "run", tmp_path / "data")
    witness.end()
    witness.close()
    assert list((tmp_path / "run").iterdir()) == []

    witness = begun(tmp_path / "run", tmp_path / "data")
    witness.refuse(b"S stale")
    witness.end()
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_whoever_begins_removes_what_no_start_can_need(tmp_path: Path) -> None:
    """Pages of directories that are gone and of other boots; not those that accuse or refuse: a volume may be unmounted."""
    for name in ("gone", "accused", "refused", "kept"):
        witness = begun(tmp_path / "run", tmp_path / name)
        if name == "accused":
            witness.accuse()
        if name == "refused":
            witness.refuse(b"S stale")
        if name != "kept":
            (tmp_path / name).rmdir()
    begun(tmp_path / "run", tmp_path / "new")

    def known(name: str) -> bool:
        return FileWitness(tmp_path / "run", tmp_path / name).recall() is not None

    assert [known(name) for name in ("gone", "accused", "refused", "kept", "new")] == [False, True, True, True, True]
    begun(tmp_path / "run", tmp_path / "after reboot", replace(SAID, boot_id="boot-2"))
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_a_directory_that_others_could_write_to_is_not_believed(tmp_path: Path) -> None:
    """In /dev/shm anybody can make one of our name. Nor is a file, or a link."""
    run, data = tmp_path / "run", tmp_path / "data"
    begun(run, data)
    run.chmod(0o777)
    witness = FileWitness(run, data)
    assert witness.recall() is None and "only this user" in witness.begin(SAID)

    run.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(run)
    assert FileWitness(link, data).recall() is None and FileWitness(link, data).begin(SAID) != ""
    assert FileWitness(data / "no" / "parent", data).begin(SAID) != ""
    assert FileWitness(None, data).begin(SAID) != "" and FileWitness(None, data).recall() is None


@pytest.mark.parametrize("content", [b"", b"kvwitns1", b"x" * 8192, b"kvwitns1" + b"\xff" * 8184])
def test_a_damaged_page_is_no_witness(tmp_path: Path, content: bytes) -> None:
    """Never an error, and replaced by the next start."""
    begun(tmp_path / "run", tmp_path / "data").close()
    [page] = (tmp_path / "run").iterdir()
    page.write_bytes(content)

    assert FileWitness(tmp_path / "run", tmp_path / "data").recall() is None
    begun(tmp_path / "run", tmp_path / "data")
    assert FileWitness(tmp_path / "run", tmp_path / "data").recall() == SAID


def test_a_kernel_without_boot_ids_gets_no_witness(tmp_path: Path) -> None:
    """It could not tell a kill from a reboot."""
    (tmp_path / "data").mkdir()

    assert "boots" in FileWitness(tmp_path / "run", tmp_path / "data").begin(replace(SAID, boot_id=""))
    assert not (tmp_path / "run").exists()


def test_closing_twice_and_speaking_afterwards_is_harmless(tmp_path: Path) -> None:
    """What is told after the end goes nowhere."""
    witness = begun(tmp_path / "run", tmp_path / "data")
    witness.close()
    witness.close()
    witness.applied(5)

    assert not witness.refuse(b"S")
    found = FileWitness(tmp_path / "run", tmp_path / "data").recall()
    assert found is not None and found.sequence == 100


def test_the_default_is_this_users_own_place_in_shared_memory() -> None:
    """Two users' nodes do not meet."""
    assert default_run_directory() == Path(f"/dev/shm/kvnode-{os.geteuid()}")
