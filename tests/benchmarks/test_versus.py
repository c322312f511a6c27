"""What the comparisons compute from what programs print. The comparisons themselves need etcd, redis, Go and a quiet machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import contenders, redis, versus_redis
from tests.benchmarks.contenders import MissingProgram, ServerFailed, free_ports, program, run_program
from tests.benchmarks.figures import (
    Figure,
    LoadDocument,
    NothingMeasured,
    Shape,
    cell_document,
    percentile_us,
    ratios,
    rounded_us,
    spread_of,
)
from tests.benchmarks.foreign import CheckPerf, parse_check_perf, parse_redis_csv, parse_redis_info
from tests.benchmarks.load_process import LoadOptions, generator_options, measure
from tests.benchmarks.sitting import Plan, Sitting, chosen
from tests.benchmarks.versus_etcd import check_document

CHECK_PERF_PASSED = """ 59 / 60 Booooooooooooooooooooooooooooooooooooooooooom   !  98.33%\x1b[0K 60 / 60 Boom ! 100.00% 1m0s
PASS: Throughput is 150 writes/s
PASS: Slowest request took 0.087509s
PASS: Stddev is 0.004305s
PASS
"""
CHECK_PERF_FAILED = """ 60 / 60 Boom ! 100.00% 1m0s
FAIL: too many errors
FAIL: ERROR(etcdserver: request timed out) -> 3
FAIL: ERROR(context deadline exceeded) -> 2
FAIL: Throughput too low: 5512 writes/s
Slowest request took too long: 1.204517s
Stddev too high: 0.117038s
FAIL
"""
REDIS_CSV = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET k __rand_int__ x","26053.42","28.000","2.000","11.503","100.000","252.031","300.000"
"""
OPTIONS = LoadOptions(key_size=276, value_size=1_024, keys=10, warmup_s=0.0, duration_s=1.0)


# --- other people's output --------------------------------------------------------------------------------------------


def test_check_perf_that_passed_is_read_behind_its_progress_bar() -> None:
    """The rate and the slowest request are all it tells."""
    assert parse_check_perf(CHECK_PERF_PASSED) == CheckPerf(150.0, 0.087509, 0)


def test_check_perf_that_failed_its_bar_is_a_figure_like_any_other() -> None:
    """FAIL means slower than 0.9 of the limit; errors are added up."""
    assert parse_check_perf(CHECK_PERF_FAILED) == CheckPerf(5_512.0, 1.204517, 5)


def test_redis_csv_is_read_by_column_name_behind_warnings() -> None:
    """Versions add columns."""
    line = parse_redis_csv(REDIS_CSV)

    assert (line.per_s, line.p50_ms, line.p99_ms) == (26_053.42, 11.503, 252.031)


@pytest.mark.parametrize("text", ["", "Could not connect", '"test","rps"\n', '"test","rps"\n"SET","1.0"\n'])
def test_output_that_is_not_as_expected_is_refused_not_guessed(text: str) -> None:
    """Both parsers raise, with the end of what was printed."""
    with pytest.raises(NothingMeasured):
        parse_redis_csv(text)
    with pytest.raises(NothingMeasured):
        parse_check_perf(text)


def test_redis_info_is_names_and_values() -> None:
    """A value may hold colons and commas."""
    found = parse_redis_info("# Replication\r\nrole:master\r\nslave0:ip=::1,port=1,state=online\r\n\r\n")

    assert found == {"role": "master", "slave0": "ip=::1,port=1,state=online"}


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("us", "kept"), [(0, 0), (7, 7), (999, 999), (1_000, 1_000), (1_239, 1_230), (98_765_432, 98_700_000)]
)
def test_latencies_keep_three_significant_digits(us: int, kept: int) -> None:
    """Rounded down, so the error is below one percent, and it never makes anybody slower."""
    assert rounded_us(us) == kept


@pytest.mark.parametrize(("share", "found"), [(0.0, 10), (0.5, 10), (0.51, 20), (0.99, 20), (1.0, 500)])
def test_a_percentile_is_the_smallest_latency_that_enough_did_not_exceed(share: float, found: int) -> None:
    """Over 50 of 10 us, 49 of 20 us and one of 500 us."""
    assert percentile_us({20: 49, 10: 50, 500: 1}, share) == found


def test_percentile_of_nothing_is_zero() -> None:
    """A load in which all failed has no latency."""
    assert percentile_us({}, 0.99) == 0


def _document(operations: int, elapsed_s: float, latencies: dict[str, int]) -> LoadDocument:
    return LoadDocument.parse(
        {
            "operations": operations, "elapsed_s": elapsed_s, "errors": 1, "not_found": 0, "first_error": "",
            "latencies_us": latencies,
        }
    )  # fmt: skip


def test_processes_of_one_load_are_added_up() -> None:
    """Rates and counts add; latencies are merged before percentiles are taken; CPU is per operation."""
    parts = [_document(300, 1.0, {"1000": 300}), _document(100, 0.5, {"9000": 100})]

    figure = Figure.combine(parts, 1.5, 0.5)

    assert (figure.operations, figure.per_s, figure.errors) == (400, 500.0, 2)
    assert (figure.p50_ms, figure.p99_ms) == (1.0, 9.0)
    assert (figure.server_cpu_us, figure.generator_cpu_us) == (3_000.0, 1_000.0)


def _figures(*rates: float, cpu_us: float | None = 10.0) -> list[Figure]:
    return [Figure(1, rate, 1.0, 2.0, cpu_us, None) for rate in rates]


def test_ratios_are_taken_within_a_round() -> None:
    """The machine halved its speed in round two: the ratio did not move, that of the medians would have."""
    ours, peer = _figures(100, 50, 200), _figures(200, 100, 100)

    assert ratios(ours, peer, "per_s") == [0.5, 0.5, 2.0]
    assert cell_document(ours, peer)["ratio"] == [0.5, 0.5, 2.0]


def test_what_nobody_measured_has_no_ratio() -> None:
    """redis-benchmark tells no CPU of its own, and without Go there is no peer at all."""
    assert ratios(_figures(1), _figures(1, cpu_us=None), "server_cpu_us") == []
    assert cell_document(_figures(1), [])["ratio"] is None
    assert spread_of([None]) is None


def test_check_perf_is_told_next_to_the_go_client() -> None:
    """Its rate limit is said, and which share of the best figure it reached."""
    cells = [{"operation": "put", "shape": "x", **cell_document(_figures(1), _figures(8_000, 8_000, 8_000)[:1])}]

    document = check_document("l", [CheckPerf(4_000.0, 0.1, 0)], cells)

    assert document["share_of_go_client"] == 0.5
    assert "at most 8,000/s" in document["says"] and "0.50 of what the Go client" in document["says"]


# --- the sitting ------------------------------------------------------------------------------------------------------


class _Scripted:
    def __init__(self, name: str, said: list[str], figure: Figure) -> None:
        self.name, self._said, self._figure = name, said, figure

    def measure(self, shape: Shape, operation: str, directory: Path) -> Figure:
        assert list(directory.iterdir()) == []
        self._said.append(f"{self.name} {operation}")
        return self._figure


def test_contenders_take_turns_and_who_begins_alternates(tmp_path: Path) -> None:
    """Each in an empty directory of its own, which is gone afterwards."""
    said: list[str] = []
    sitting = Sitting(Plan([Shape("s", 1, 1, 1)], ["put", "get"], 2, tmp_path))

    sitting.run(
        [_Scripted(name, said, _figures(1)[0]) for name in ("peer", "ours")], after_round=lambda: said.append("-")
    )

    assert said == [
        "peer put",
        "ours put",
        "peer get",
        "ours get",
        "-",
        "ours put",
        "peer put",
        "ours get",
        "peer get",
        "-",
    ]
    assert list(tmp_path.iterdir()) == []
    assert sitting.problems() == []


def test_a_figure_with_errors_is_a_problem(tmp_path: Path) -> None:
    """More than one operation in a hundred failed, or found nothing: it is a figure of something else."""
    sitting = Sitting(Plan([Shape("s", 1, 1, 1)], ["get"], 1, tmp_path))

    sitting.run(
        [_Scripted("ours", [], Figure(100, 1.0, 1.0, 1.0, None, None, errors=1, not_found=1, first_error="timeout"))]
    )

    assert len(sitting.problems()) == 1 and "timeout" in sitting.problems()[0]


def test_shapes_are_chosen_by_number() -> None:
    """From one; without numbers, all."""
    shapes = versus_redis.SHAPES
    assert chosen(shapes, [1, 3]) == [shapes[0], shapes[2]]
    assert chosen(shapes, None) == list(shapes)


def test_every_shape_of_redis_has_as_many_in_flight_on_both_sides() -> None:
    """And as many clients."""
    for shape in versus_redis.SHAPES:
        drive = versus_redis.DRIVES[shape.name]
        assert shape.processes * shape.connections == drive.connections
        assert shape.processes * shape.in_flight == drive.connections * drive.pipeline


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_missing_program_names_the_command_that_installs_it() -> None:
    """Before anything was started."""
    with pytest.raises(MissingProgram, match="apt-get install -y etcd-server"):
        program("no-such-program-etcd", "etcd-server")


def test_a_program_that_fails_is_told_with_what_it_printed() -> None:
    """Unless its exit code is expected."""
    with pytest.raises(ServerFailed, match="ended with 3: because"):
        run_program(["sh", "-c", "echo because; exit 3"], timeout_s=10.0)
    assert run_program(["sh", "-c", "echo fine; exit 3"], timeout_s=10.0, codes=(3,)) == "fine\n"


def test_a_server_that_ends_instead_of_becoming_ready_is_told_with_its_log(tmp_path: Path) -> None:
    """And the ones started before it are ended."""
    commands = [["sleep", "60"], ["sh", "-c", "echo port is taken; exit 1"]]
    with pytest.raises(ServerFailed, match="port is taken"), contenders.servers(commands, tmp_path, lambda: False):
        pass


def test_free_ports_differ() -> None:
    """They are held until all are found."""
    assert len(set(free_ports(6))) == 6


def test_generators_that_put_have_keys_of_their_own_and_those_that_read_share_them() -> None:
    """Fresh means fresh: two processes must not overwrite each other."""
    shape = Shape("s", 2, 3, 4)

    def prefix(operation: str, process: int) -> str:
        made = generator_options(OPTIONS, shape, operation, process)
        return made[made.index("-prefix") + 1]

    assert prefix("put", 0) != prefix("put", 1)
    assert prefix("get", 0) == prefix("get", 1) == prefix("fill", 0)


STAND_IN = """
echo ready; read go; echo begin; echo end
echo '{"operations": 3, "elapsed_s": 1.5, "errors": 0, "not_found": 0, "first_error": "", "latencies_us": {"10": 3}}'
read end
"""


def test_generators_run_in_step(tmp_path: Path) -> None:
    """Two processes that speak the protocol are one load."""
    figure = measure(["sh", "-c", STAND_IN], Shape("s", 2, 1, 1), "put", OPTIONS, [], tmp_path)

    assert (figure.operations, figure.per_s, figure.p99_ms) == (6, 4.0, 0.01)


def test_a_generator_that_ends_early_fails_the_load_with_what_it_wrote(tmp_path: Path) -> None:
    """The others are ended."""
    with pytest.raises(NothingMeasured, match="no route"):
        measure(["sh", "-c", "echo no route >&2"], Shape("s", 2, 1, 1), "put", OPTIONS, [], tmp_path)


def test_keys_of_redis_have_the_asked_size() -> None:
    """The same form as the other generators make."""
    made = redis.Redis(OPTIONS, {})._key("k-", "0" * redis.DIGITS)
    assert len(made) == OPTIONS.key_size and made.startswith("k-.")
