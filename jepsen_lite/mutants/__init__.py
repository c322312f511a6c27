"""The harness's own test: seeded bugs, each a patch of the product's source, and every one of them has to be found.

    library/*.toml   one bug each: what it is in a user's words, the promise it breaks, the faults that make it visible
    mutant.py        reads the library
    apply.py         a copy of the three packages, with one bug in it (the product itself has no mutant branch)
    outcome.py       what one run of the harness came to: passed, killed (by whom), or the mutant itself is broken
    suite.py         seed after seed for each mutant until one run fails; `python -m jepsen_lite.mutants.suite`
    page.py          docs/mutants.md
    later/*.toml     mutants that nothing can show yet; each says why, and they do not count
    report.py        the score: killed / seeded, which must be 100 %

A new bug in the product that no mutant resembles gets one here, beside its regression test.
Source: `reliability` section 3.14; `correctness`, "Answers to what would be guessed".
"""
