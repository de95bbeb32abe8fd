"""Merkle trees of RFC 9162, against the definition written down anew and against pymerkle."""

import hashlib
from collections.abc import Sequence

import pytest
from pymerkle import InmemoryTree  # type: ignore[import-untyped]  # it ships no types

from serving.errors import ProofInvalid
from serving.trust.merkle import (
    EMPTY_ROOT,
    Frontier,
    Proof,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

LARGEST = 300
ENTRIES = [b"entry-%d" % number for number in range(LARGEST + 1)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def defined_root(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    left, right = defined_root(entries[:k]), defined_root(entries[k:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.fixture(scope="module")
def roots() -> list[bytes]:
    """The root of the first n entries, for each n, by the definition."""
    return [defined_root(ENTRIES[:size]) for size in range(LARGEST + 1)]


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


def wrong_proofs(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Each sibling changed, each left out, neighbours swapped, one more at either end."""
    changed = [(*proof[:at], flipped(proof[at]), *proof[at + 1 :]) for at in range(len(proof))]
    shorter = [(*proof[:at], *proof[at + 1 :]) for at in range(len(proof))]
    swapped = [
        (*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]) for at in range(len(proof) - 1)
    ]
    return [*changed, *shorter, *swapped, (*proof, EMPTY_ROOT), (EMPTY_ROOT, *proof)]


def test_roots_of_all_sizes_are_those_of_the_definition(roots: list[bytes]) -> None:
    """A frontier that grows leaf by leaf, also when it is put down and taken up again."""
    frontier = Frontier()
    tree = InmemoryTree(algorithm="sha256")
    for size in range(LARGEST + 1):
        assert roots[size] == frontier.root()
        if size:
            assert tree.get_root(size) == frontier.root()
        frontier = Frontier(frontier.size, frontier.nodes)
        frontier.append(LEAVES[size])
        tree.append_entry(ENTRIES[size])

    assert root(LEAVES[:LARGEST]) == roots[LARGEST]
    assert frontier.size == LARGEST + 1


def refuses_inclusion(leaf: bytes, proof: Proof, *, index: int, size: int, root: bytes) -> bool:
    try:
        verify_inclusion(leaf, proof, index=index, size=size, expected_root=root)
    except ProofInvalid:
        return True
    return False


def refuses_growth(proof: Proof, old: tuple[int, bytes], new: tuple[int, bytes]) -> bool:
    """old, new: size and root."""
    try:
        verify_consistency(
            proof, old_size=old[0], old_root=old[1], size=new[0], expected_root=new[1]
        )
    except ProofInvalid:
        return True
    return False


def test_au_05_inclusion_proofs_accept_exactly_the_right_ones(roots: list[bytes]) -> None:
    """All sizes 0..300: an index by the right proof, none by one that differs in any sibling."""
    for size in range(LARGEST + 1):
        whole = roots[size]
        for index in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
            leaf, proof = LEAVES[index], inclusion_proof(LEAVES[:size], index)
            wrong = [
                refuses_inclusion(leaf, each, index=index, size=size, root=whole)
                for each in wrong_proofs(proof)
            ]

            assert not refuses_inclusion(leaf, proof, index=index, size=size, root=whole)
            assert all(wrong)
            assert refuses_inclusion(flipped(leaf), proof, index=index, size=size, root=whole)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64, 100])
def test_au_05_inclusion_holds_at_one_index_of_one_size(roots: list[bytes], size: int) -> None:
    """A proof of a leaf is none for any other index, and none for another size with its root."""
    for index in range(size):
        leaf, proof = LEAVES[index], inclusion_proof(LEAVES[:size], index)
        others = [
            refuses_inclusion(leaf, proof, index=other, size=size, root=roots[size])
            for other in (*range(-1, index), *range(index + 1, size + 1))
        ]

        assert all(others)
        assert refuses_inclusion(leaf, proof, index=index, size=size + 1, root=roots[size + 1])


def test_au_05_consistency_proofs_accept_exactly_the_right_ones(roots: list[bytes]) -> None:
    """All sizes 1..300 from several older ones, and no proof that differs in any hash."""
    for size in range(1, LARGEST + 1):
        new = (size, roots[size])
        powers = {1 << (size.bit_length() - 1), 1, 2}
        for old_size in {size // 2, size - 1, size, *powers} & set(range(1, size + 1)):
            old, proof = (old_size, roots[old_size]), consistency_proof(LEAVES[:size], old_size)
            wrong = [refuses_growth(each, old, new) for each in wrong_proofs(proof)]

            assert not refuses_growth(proof, old, new)
            assert all(wrong)
            assert refuses_growth(proof, old, (size, flipped(roots[size])))


@pytest.mark.parametrize("size", range(1, 34))
def test_au_05_consistency_of_every_pair_of_sizes(roots: list[bytes], size: int) -> None:
    """From each older size, and from no other size with its root."""
    new = (size, roots[size])
    for old in range(1, size + 1):
        proof = consistency_proof(LEAVES[:size], old)
        others = [
            refuses_growth(proof, (other, roots[old]), new)
            for other in (*range(1, old), *range(old + 1, size + 1))
        ]

        assert not refuses_growth(proof, (old, roots[old]), new)
        assert all(others)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 33])
def test_au_05_proofs_are_those_of_another_implementation(size: int) -> None:
    """pymerkle finds the same siblings."""
    tree = InmemoryTree(algorithm="sha256")
    for entry in ENTRIES[:size]:
        tree.append_entry(entry)

    for index in range(size):
        theirs = tree.prove_inclusion(index + 1, size).path[1:]
        assert tuple(theirs) == inclusion_proof(LEAVES[:size], index)


def test_every_tree_grew_from_the_empty_one(roots: list[bytes]) -> None:
    """With an empty proof and the root of nothing; a smaller tree grew from no larger one."""
    verify_consistency((), old_size=0, old_root=EMPTY_ROOT, size=9, expected_root=roots[9])

    assert refuses_growth((), (0, roots[1]), (9, roots[9]))
    assert refuses_growth((EMPTY_ROOT,), (0, EMPTY_ROOT), (9, roots[9]))
    assert refuses_growth((), (10, roots[10]), (9, roots[9]))


def test_au_06_interior_node_does_not_pass_for_a_leaf() -> None:
    """An entry made of two hashes has another hash than the node above them, at either place."""
    left, right = LEAVES[:2]
    node = node_hash(left, right)

    assert leaf_hash(left + right) != node
    assert leaf_hash(b"\x01" + left + right) != node
    assert refuses_inclusion(
        leaf_hash(left + right), (LEAVES[2],), index=0, size=2, root=root(LEAVES[:3])
    )


@pytest.mark.parametrize(("size", "nodes"), [(-1, ()), (1, ()), (2, (EMPTY_ROOT,) * 2)])
def test_frontier_refuses_what_no_tree_has(size: int, nodes: tuple[bytes, ...]) -> None:
    """A tree of n leaves has one complete subtree for each bit of n."""
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier(size, nodes)
