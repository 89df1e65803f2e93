"""Zachary's karate club: who met whom outside of it, and whom each followed when it split.

W. Zachary, An Information Flow Model for Conflict and Fission in Small Groups, J. Anthropological Research 33 (1977).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..ops.creation import from_numpy
from ..tensor import Tensor

# Each member's friends of a higher number, counted from 1 as in the article.
_FRIENDS = {
    1: (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 18, 20, 22, 32), 2: (3, 4, 8, 14, 18, 20, 22, 31),
    3: (4, 8, 9, 10, 14, 28, 29, 33), 4: (8, 13, 14), 5: (7, 11), 6: (7, 11, 17), 7: (17,), 9: (31, 33, 34), 10: (34,),
    14: (34,), 15: (33, 34), 16: (33, 34), 19: (33, 34), 20: (34,), 21: (33, 34), 23: (33, 34),
    24: (26, 28, 30, 33, 34), 25: (26, 28, 32), 26: (32,), 27: (30, 34), 28: (34,), 29: (32, 34), 30: (33, 34),
    31: (33, 34), 32: (33, 34), 33: (34,),
}  # fmt: skip
_WITH_THE_INSTRUCTOR = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 17, 18, 20, 22)


class KarateClub(NamedTuple):
    """`edges` i64[2, 156]: each of the 78 friendships in both directions; `labels` i64[34]: 0 where a member went with the
    instructor (member 0), 1 with the administrator (member 33)."""

    edges: Tensor
    labels: Tensor

    def adjacency(self) -> Tensor:
        """f32[34, 34]: 1 between friends."""
        out = np.zeros((34, 34), np.float32)
        out[tuple(self.edges.numpy())] = 1
        return from_numpy(out)


def load_karate_club() -> KarateClub:
    """The club's 34 members, their 78 friendships, and the side that each took."""
    pairs = np.array([(a - 1, b - 1) for a, friends in _FRIENDS.items() for b in friends], np.int64)
    labels = np.ones(34, np.int64)
    labels[np.array(_WITH_THE_INSTRUCTOR) - 1] = 0
    both = np.concatenate([pairs, pairs[:, ::-1]]).T
    return KarateClub(from_numpy(np.ascontiguousarray(both)), from_numpy(labels))
