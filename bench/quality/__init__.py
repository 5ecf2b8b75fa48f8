"""One table, one evaluator: every model beside what a user would pick instead (docs/quality.md).

A cell is one model on one set with one seed. It is computed once, in a process of its own, and kept as
`results/<set>/<model>/<seed>.json`; what is there is not computed again.

    python -m bench.quality run --sets beauty --models popularity,sasrec-ce --seeds 0
    python -m bench.quality page                # docs/quality/table.md and its plots, from the cells
"""
