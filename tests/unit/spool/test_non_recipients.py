"""The tree grows as Exim's does: its shape after each kind of turn, and by properties."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respool.spool.envelope import TreeNode
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.non_recipients import grow, unbalanced
from tests.spool_corpus import SAMPLES

WITH_A_TREE = [sample for sample in SAMPLES if sample.envelope.tree]


def lines(tree: tuple[TreeNode, ...]) -> str:
    return " ".join(f"{'NY'[node.has_left]}{'NY'[node.has_right]}{node.name.decode()}" for node in tree)


def in_order(tree: tuple[TreeNode, ...]) -> tuple[list[bytes], int]:
    """(names from left to right, depth), read back as Exim reads the lines."""
    rest = iter(tree)

    def below(depth: int) -> tuple[list[bytes], int]:
        node = next(rest)
        left, left_depth = below(depth + 1) if node.has_left else ([], depth)
        right, right_depth = below(depth + 1) if node.has_right else ([], depth)
        return [*left, node.name, *right], max(left_depth, right_depth)

    found = below(1) if tree else ([], 0)
    assert next(rest, None) is None
    return found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", ""),
        ("a", "NNa"),
        ("ab", "NYa NNb"),
        ("ba", "YNb NNa"),
        # One turn, to each side.
        ("abc", "YYb NNa NNc"),
        ("cba", "YYb NNa NNc"),
        # Two turns, to each side.
        ("acb", "YYb NNa NNc"),
        ("cab", "YYb NNa NNc"),
        # What is turned away has children of its own, and the node that is turned is not the root.
        ("dbface", "YYd YYb NNa NNc YNf NNe"),
        ("abcdef", "YYd YYb NNa NNc NYe NNf"),
        ("fedcba", "YYc YNb NNa YYe NNd NNf"),
        ("ebgdfhc", "YYe YYc NNb NNd YYg NNf NNh"),
        ("aba", "NYa NNb"),
    ],
)
def test_the_shape_is_that_of_exims_algorithm(names: str, expected: str) -> None:
    assert lines(grow((), (name.encode() for name in names))) == expected


class Avl:
    """A tree that is kept in balance by the heights of its subtrees: what algorithm A comes to, told otherwise."""

    def __init__(self, name: str, left: Avl | None = None, right: Avl | None = None) -> None:
        self.name, self.left, self.right = name, left, right

    def __str__(self) -> str:
        below = [f" {child}" for child in (self.left, self.right) if child is not None]
        return f"{'NY'[self.left is not None]}{'NY'[self.right is not None]}{self.name}{''.join(below)}"


def height(tree: Avl | None) -> int:
    return 0 if tree is None else 1 + max(height(tree.left), height(tree.right))


def with_name(tree: Avl | None, name: str) -> Avl:
    if tree is None:
        return Avl(name)
    if name < tree.name:
        return in_balance(Avl(tree.name, with_name(tree.left, name), tree.right))
    return in_balance(Avl(tree.name, tree.left, with_name(tree.right, name)))


def in_balance(tree: Avl) -> Avl:
    left, right = tree.left, tree.right
    if left is not None and height(left) > height(right) + 1:
        if (inner := left.right) is not None and height(inner) > height(left.left):
            left = Avl(inner.name, Avl(left.name, left.left, inner.left), inner.right)
        return Avl(left.name, left.left, Avl(tree.name, left.right, right))
    if right is not None and height(right) > height(left) + 1:
        if (inner := right.left) is not None and height(inner) > height(right.right):
            right = Avl(inner.name, inner.left, Avl(right.name, inner.right, right.right))
        return Avl(right.name, Avl(tree.name, left, right.left), right.right)
    return tree


def test_whatever_the_order_the_shape_is_that_of_a_tree_balanced_by_heights() -> None:
    chance = random.Random(1)
    orders = [list(order) for order in itertools.permutations("abcdef")]
    orders += [chance.sample("abcdefghijklmnopqrstuvwxyz", 26) for _ in range(300)]
    for order in orders:
        expected: Avl | None = None
        for name in order:
            expected = with_name(expected, name)
        assert lines(grow((), (name.encode() for name in order))) == str(expected), order


def test_an_empty_name_is_one_too() -> None:
    assert lines(grow((), [b"", b"a"])) == "NY NNa"
    assert lines(grow((TreeNode(has_left=False, has_right=False, name=b""),), [b"a", b"b"])) == "YYa NN NNb"


@given(st.lists(st.binary(max_size=3), max_size=60))
def test_any_names_in_any_order_give_a_tree_in_order_and_in_balance(names: list[bytes]) -> None:
    tree = grow((), names)
    assert in_order(tree)[0] == sorted(set(names))
    assert unbalanced(tree) is None
    # Names that come later are put into the tree as it is.
    assert grow(grow((), names[:20]), names[20:]) == tree


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 100, 1000])
def test_ascending_names_do_not_make_a_deep_tree(count: int) -> None:
    found, depth = in_order(grow((), (b"%04d" % number for number in range(count))))
    assert found == [b"%04d" % number for number in range(count)]
    assert depth == count.bit_length()


def test_exims_own_trees_stay_as_they_are() -> None:
    assert len(WITH_A_TREE) > 5
    assert max(len(sample.envelope.tree) for sample in WITH_A_TREE) > 2
    for sample in WITH_A_TREE:
        tree = sample.envelope.tree
        assert unbalanced(tree) is None
        assert grow(tree, (tree[0].name,)) == tree


def test_a_tree_out_of_order_is_mended() -> None:
    data = WITH_A_TREE[0].header_data
    envelope = parse_header_file(data, file="x")
    # Each name left of the one above it, whatever it is.
    names = (b"b", b"a", b"d", b"c")
    wrong = tuple(TreeNode(has_left=name != b"c", has_right=False, name=name) for name in names)
    assert lines(grow(wrong, [b"e"])) == "YYb NNa YYd NNc NNe"
    assert parse_header_file(render_header_file(envelope.replace(tree=wrong)), file="x").tree == wrong


def test_the_first_node_that_is_out_of_balance_is_found() -> None:
    chain = tuple(TreeNode(has_left=False, has_right=name != b"d", name=name) for name in (b"b", b"c", b"d"))
    assert unbalanced(chain) == 0
    above = (TreeNode(has_left=False, has_right=True, name=b"a"), *chain)
    assert unbalanced(above) == 0
    beside = (
        TreeNode(has_left=True, has_right=True, name=b"Z"),
        *grow((), [b"T", b"R", b"V", b"W"]),
        *chain,
    )
    assert unbalanced(beside) == 5
    assert unbalanced(()) is None


def test_the_order_of_the_names_decides_the_shape_alone() -> None:
    shapes = {lines(grow((), order)) for order in itertools.permutations([b"a", b"b", b"c", b"d"])}
    assert len(shapes) == 4
