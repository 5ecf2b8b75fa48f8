"""What the garbage collector looks through: what the service makes, and not what it has imported.

torch, transformers and what is under them are half a million objects that live as long as the process. A full
collection walked all of them and held up every request for a quarter of a second and more. Frozen they are not looked
at. Knows no bundle but its kind.

    settle("continuous")     # off the event loop, before a bundle of that kind is read
"""

from __future__ import annotations

import functools
import gc


def settle(kind: str) -> None:
    """Imports what a bundle of this kind is computed with and freezes what there is by then, once.

    Before the bundle is read: what is frozen is never found again where it holds itself.
    """
    _settle(computed=kind != "popular")  # counting needs no torch, and importing it costs seconds


@functools.cache
def _settle(*, computed: bool) -> None:
    if computed:  # both kinds, or the first of the other kind would come with a bundle of this one in memory
        import model.continuous.transitions
        import model.semantic.recommender  # noqa: F401
    gc.collect()
    gc.freeze()
