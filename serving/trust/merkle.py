"""Merkle trees of RFC 9162: one hash for a sequence, short proofs about it.

A leaf is hashed with 0x00 in front, an interior node with 0x01, so neither passes for the other.
Trees are of leaf hashes (`leaf_hash` of what is recorded), in order; the left half of a tree of n
leaves has the largest power of two below n. A proof is checked with every link of it: too short, too
long, an index outside and a sibling on the wrong side are all refused with ProofInvalid.

`Frontier` is for a log that grows: it keeps one hash for each bit of its size, so that appending
costs one or two hashes on average and the root O(log n), whatever the size.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from serving.errors import ProofInvalid

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_LEAF: Final = b"\0"
_NODE: Final = b"\1"

Proof = tuple[bytes, ...]


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(_LEAF + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes; that of no leaf is the SHA-256 of nothing."""
    frontier = Frontier()
    for each in leaf_hashes:
        frontier.append(each)
    return frontier.root()


class Frontier:
    """A tree that only grows. `nodes`: roots of its complete subtrees, the largest first.

    (size, nodes) is all there is to keep: a frontier made from them goes on where the other was.
    """

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        if size < 0 or size.bit_count() != len(nodes):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} complete subtrees")
        self.size = size
        self._nodes = list(nodes)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        return tuple(self._nodes)

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash."""
        size = self.size
        while size & 1:
            leaf = node_hash(self._nodes.pop(), leaf)
            size >>= 1
        self._nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self._nodes:
            return EMPTY_ROOT
        *others, found = self._nodes
        for node in reversed(others):
            found = node_hash(node, found)
        return found


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> Proof:
    """Siblings from leaf `index` up to the root (RFC 9162, 2.1.3.1)."""
    size = len(leaf_hashes)
    if not 0 <= index < size:
        raise ValueError(f"index {index} of a tree of {size} leaves")
    if size == 1:
        return ()
    split = _split(size)
    left, right = leaf_hashes[:split], leaf_hashes[split:]
    if index < split:
        return (*inclusion_proof(left, index), root(right))
    return (*inclusion_proof(right, index - split), root(left))


def verify_inclusion(
    leaf: bytes, proof: Proof, *, index: int, size: int, expected_root: bytes
) -> None:
    """Passes when the leaf hash is at `index` of the tree (RFC 9162, 2.1.3.2). Raises ProofInvalid."""
    if not 0 <= index < size:
        raise ProofInvalid(f"index {index} lies outside of a tree of {size} leaves")
    position, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofInvalid("the inclusion proof is too short")
    _expect(found, expected_root, "the leaf is not in the tree with this root")


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int) -> Proof:
    """What shows that the first `old_size` leaves are still the first (RFC 9162, 2.1.4.1)."""
    size = len(leaf_hashes)
    if not 0 < old_size <= size:
        raise ValueError(f"an old size of {old_size} in a tree of {size} leaves")
    return _subproof(leaf_hashes, old_size, whole=True)


def verify_consistency(
    proof: Proof, *, old_size: int, old_root: bytes, size: int, expected_root: bytes
) -> None:
    """Passes when the tree grew from the old one (RFC 9162, 2.1.4.2). Raises ProofInvalid.

    Every tree grew from the empty one, with an empty proof.
    """
    if not 0 <= old_size <= size:
        raise ProofInvalid(f"a tree of {size} leaves cannot have grown from {old_size}")
    if old_size == 0:
        _expect(old_root, EMPTY_ROOT, "the old root is not that of an empty tree")
        _nothing_left(proof)
        return
    if old_size == size:
        _expect(old_root, expected_root, "equal sizes with different roots")
        _nothing_left(proof)
        return
    _climb(proof, old_size=old_size, old_root=old_root, size=size, expected_root=expected_root)


def _climb(
    proof: Proof, *, old_size: int, old_root: bytes, size: int, expected_root: bytes
) -> None:
    # A power of two is a complete subtree of the new tree: the old root itself starts the climb.
    hashes = proof if old_size & (old_size - 1) else (old_root, *proof)
    if not hashes:
        raise ProofInvalid("the consistency proof is empty")
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofInvalid("the consistency proof is too long")
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofInvalid("the consistency proof is too short")
    _expect(old, old_root, "the proof does not lead to the old root")
    _expect(new, expected_root, "the proof does not lead to the new root")


def _subproof(leaf_hashes: Sequence[bytes], old_size: int, *, whole: bool) -> Proof:
    size = len(leaf_hashes)
    if old_size == size:
        return () if whole else (root(leaf_hashes),)
    split = _split(size)
    left, right = leaf_hashes[:split], leaf_hashes[split:]
    if old_size <= split:
        return (*_subproof(left, old_size, whole=whole), root(right))
    return (*_subproof(right, old_size - split, whole=False), root(left))


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _nothing_left(proof: Proof) -> None:
    if proof:
        raise ProofInvalid("the consistency proof is too long")


def _expect(found: bytes, expected: bytes, reason: str) -> None:
    if not hmac.compare_digest(found, expected):
        raise ProofInvalid(reason)
