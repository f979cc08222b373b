"""The non-recipients tree: grown as Exim grows it, so that the lines are those that it would write.

Exim keeps the names in a search tree in strcmp order that is balanced after each insertion
(tree.c: Knuth, The Art of Computer Programming 3, 6.2.3, algorithm A). So the shape
depends on the order in which the names came.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .envelope import TreeNode


class _Node:
    """balance is 1 where the right subtree is the deeper one, -1 where the left one is."""

    __slots__ = ("balance", "children", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        #: left, right
        self.children: list[_Node | None] = [None, None]
        self.balance = 0


def grow(tree: Sequence[TreeNode], names: Iterable[bytes]) -> tuple[TreeNode, ...]:
    """The tree after these names were inserted, one after the other; what it has already changes nothing.

    A tree that is out of order or out of balance is mended by it.
    """
    # The root is the right child of a node that is in no tree.
    anchor = _Node(b"")
    # Level by level: a balanced tree comes out as it was.
    at_depth = sorted(zip(_depths(tree), tree, strict=True), key=lambda pair: pair[0])
    for _, node in at_depth:
        _insert(anchor, node.name)
    for name in names:
        _insert(anchor, name)
    return _in_pre_order(anchor.children[1])


def unbalanced(tree: Sequence[TreeNode]) -> int | None:
    """The index of the first node whose subtrees differ by more than one level; None where there is none."""
    found: int | None = None
    heights: list[int] = []
    for index in range(len(tree) - 1, -1, -1):
        # Backwards in pre-order both subtrees come before their node, the left one last.
        left = heights.pop() if tree[index].has_left else 0
        right = heights.pop() if tree[index].has_right else 0
        heights.append(1 + max(left, right))
        if abs(left - right) > 1:
            found = index
    return found


def _depths(tree: Sequence[TreeNode]) -> Iterable[int]:
    waiting = [1]
    for node in tree:
        depth = waiting.pop()
        waiting += [depth + 1] * (node.has_left + node.has_right)
        yield depth


def _insert(anchor: _Node, name: bytes) -> None:
    """tree_insertnode() of tree.c: a name that is there already changes nothing."""
    way, node = [anchor], anchor.children[1]
    # Where the tree may have to be turned: at the last uneven node on the way down, or else at the root.
    turning = 1
    while node is not None:
        if name == node.name:
            return
        if node.balance:
            turning = len(way)
        way.append(node)
        node = node.children[name > node.name]
    new = _Node(name)
    # Of equal names there are none, but for an empty one: it is right of the anchor, too.
    way[-1].children[name >= way[-1].name] = new
    way.append(new)
    for passed in way[turning + 1 : -1]:
        passed.balance = 1 if name > passed.name else -1
    uneven = way[turning]
    longer = 1 if name > uneven.name else -1
    if uneven is new:
        return
    if uneven.balance != longer:
        uneven.balance += longer
        return
    above = way[turning - 1]
    below, middle = way[turning + 1 : turning + 3]
    above.children[above.children[1] is uneven] = _turned(uneven, below, middle, longer)


def _turned(uneven: _Node, below: _Node, middle: _Node, longer: int) -> _Node:
    """What stands in the place of uneven afterwards; below and middle are the next on the way to the new node."""
    side = longer == 1
    if below.balance == longer:
        uneven.children[side], below.children[not side] = below.children[not side], uneven
        uneven.balance = below.balance = 0
        return below
    below.children[not side], middle.children[side] = middle.children[side], below
    uneven.children[side], middle.children[not side] = middle.children[not side], uneven
    uneven.balance = -longer if middle.balance == longer else 0
    below.balance = longer if middle.balance == -longer else 0
    middle.balance = 0
    return middle


def _in_pre_order(root: _Node | None) -> tuple[TreeNode, ...]:
    nodes: list[TreeNode] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None:
            left, right = node.children
            nodes.append(TreeNode(has_left=left is not None, has_right=right is not None, name=node.name))
            waiting += (right, left)
    return tuple(nodes)
